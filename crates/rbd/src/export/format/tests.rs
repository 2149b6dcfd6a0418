use super::*;
use hex_literal::hex;
use proptest::prelude::*;

/// All parts of a stream that comes in pieces of `size` bytes; consecutive data as one.
fn parts(mut decoder: StreamDecoder, stream: &[u8], size: usize) -> Result<Vec<Part>, FormatError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut pieces = stream.chunks(size);
    loop {
        match decoder.next_part()? {
            Some(Part::End) => return Ok(parts),
            Some(Part::Data(data)) => match parts.last_mut() {
                Some(Part::Data(before)) => *before = [before.clone(), data].concat().into(),
                _ => parts.push(Part::Data(data)),
            },
            Some(part) => parts.push(part),
            None => match pieces.next() {
                Some(piece) => decoder.push(piece),
                None => return Err(decoder.truncated()),
            },
        }
    }
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn a_diff_is_taken_apart_however_it_comes() {
    let records = [Record::FromSnapshot(text("a")), Record::ToSnapshot(text("b")), Record::Size(4096)];
    let mut stream = diff_header(&records, Version::One);
    assert_eq!(stream[..22], *b"rbd diff v1\nf\x01\0\0\0at\x01\0\0");
    Record::Data { offset: 512, len: 3 }.encode(Version::One, &mut stream);
    stream.extend(b"xyz");
    Record::Zeroes { offset: 1024, len: 512 }.encode(Version::One, &mut stream);
    Record::End.encode(Version::One, &mut stream);
    let mut expected: Vec<Part> = records.into_iter().map(Part::Record).collect();
    expected.push(Part::Record(Record::Data { offset: 512, len: 3 }));
    expected.push(Part::Data(Bytes::from_static(b"xyz")));
    expected.push(Part::Record(Record::Zeroes { offset: 1024, len: 512 }));
    expected.push(Part::Record(Record::End));
    for size in 1..stream.len() {
        assert_eq!(parts(StreamDecoder::diff(), &stream, size).as_ref(), Ok(&expected), "in {size}s");
    }
    for len in 0..stream.len() {
        let cut = parts(StreamDecoder::diff(), &stream[..len], 7);
        assert!(matches!(cut, Err(FormatError::Truncated { .. })), "{len} bytes of it");
    }
}

#[test]
fn what_is_not_known_is_skipped_where_its_length_is_told() {
    let mut stream = b"rbd image v2\n".to_vec();
    stream.extend(hex!("51 0300000000000000 010203 4f 0800000000000000 1600000000000000 45"));
    stream.extend(b"rbd image diffs v2\n");
    stream.extend(hex!("0100000000000000"));
    stream.extend(b"rbd diff v2\n");
    stream.extend(hex!("71 0200000000000000 0102 65"));
    let expected = [Part::Property(Property::Order(22)), Part::Diffs(1), Part::Record(Record::End)];
    assert_eq!(parts(StreamDecoder::image(), &stream, 5).as_deref(), Ok(&expected[..]));
    let diff = [&b"rbd diff v1\n"[..], b"q"].concat();
    assert_eq!(parts(StreamDecoder::diff(), &diff, 5), Err(FormatError::Tag { tag: b'q' }));
}

#[test]
fn announced_lengths_allocate_nothing() {
    let long = [&b"rbd diff v1\nf"[..], &hex!("ffffffff")].concat();
    assert!(matches!(parts(StreamDecoder::diff(), &long, 5), Err(FormatError::TooLong { .. })));
    let far = [&b"rbd diff v1\nw"[..], &hex!("ffffffffffffffff 0100000000000000")].concat();
    assert!(matches!(parts(StreamDecoder::diff(), &far, 5), Err(FormatError::Overflow { .. })));
    let other = parts(StreamDecoder::diff(), b"rbd image v2\n", 1).unwrap_err();
    assert_eq!(other.to_string(), r#"this is no exported diff: it does not begin with "rbd diff v1\n""#);
}

fn any_record() -> impl Strategy<Value = (Record, Vec<u8>)> {
    let alone = |record| (record, Vec::new());
    prop_oneof![
        "[a-z]{0,9}".prop_map(move |name| alone(Record::FromSnapshot(name))),
        "[a-z]{0,9}".prop_map(move |name| alone(Record::ToSnapshot(name))),
        any::<bool>().prop_map(move |protected| alone(Record::Protected(protected))),
        any::<u64>().prop_map(move |bytes| alone(Record::Size(bytes))),
        (0u64..1 << 60, 0u64..1 << 60).prop_map(move |(offset, len)| alone(Record::Zeroes { offset, len })),
        (0u64..1 << 60, any::<Vec<u8>>())
            .prop_map(|(offset, data)| (Record::Data { offset, len: data.len() as u64 }, data)),
    ]
}

fn any_property() -> impl Strategy<Value = Property> {
    prop_oneof![
        any::<u64>().prop_map(Property::Order),
        any::<u64>().prop_map(Property::Features),
        any::<u64>().prop_map(Property::StripeUnit),
        any::<u64>().prop_map(Property::StripeCount),
        ("[a-z]{0,9}", any::<Vec<u8>>()).prop_map(|(key, value)| Property::Metadata { key, value }),
    ]
}

proptest! {
    #[test]
    fn an_image_comes_back_as_it_was(
        properties in prop::collection::vec(any_property(), 0..6),
        diffs in prop::collection::vec(prop::collection::vec(any_record(), 0..8), 0..4),
        size in 1usize..100,
    ) {
        let mut stream = image_header(&properties, diffs.len() as u64);
        let mut expected: Vec<Part> = properties.into_iter().map(Part::Property).collect();
        expected.push(Part::Diffs(diffs.len() as u64));
        for diff in diffs {
            stream.extend(diff_header(&[], Version::Two));
            for (record, data) in diff.into_iter().chain([(Record::End, Vec::new())]) {
                record.encode(Version::Two, &mut stream);
                stream.extend(&data);
                expected.push(Part::Record(record));
                expected.extend((!data.is_empty()).then(|| Part::Data(data.into())));
            }
        }
        prop_assert_eq!(parts(StreamDecoder::image(), &stream, size), Ok(expected));
    }

    #[test]
    fn how_a_stream_is_cut_changes_nothing(bytes: Vec<u8>, size in 1usize..50) {
        for (banner, decoder) in
            [(DIFF_BANNER, StreamDecoder::diff as fn() -> _), (IMAGE_BANNER, StreamDecoder::image)]
        {
            let stream = [banner, &bytes].concat();
            prop_assert_eq!(parts(decoder(), &stream, size), parts(decoder(), &stream, stream.len()));
        }
    }
}
