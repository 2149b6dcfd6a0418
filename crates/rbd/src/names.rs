//! Names of the objects that make up an image. Ceph: `src/include/rbd_types.h`, `librbd::util`.

/// Lists the images of a pool and namespace.
pub(crate) const DIRECTORY: &str = "rbd_directory";
/// Lists the images that were moved to the trash.
pub(crate) const TRASH: &str = "rbd_trash";
/// Tells which images of a pool are clones of version 1, and of what.
pub(crate) const CHILDREN: &str = "rbd_children";
/// Lists the namespaces of a pool.
pub(crate) const NAMESPACES: &str = "rbd_namespace";
/// Tells that a pool can hold images, and keeps its configuration.
pub(crate) const POOL_INFO: &str = "rbd_info";
/// Tells which images of a pool and namespace are mirrored.
pub(crate) const MIRRORING: &str = "rbd_mirroring";

/// Holds the id of the image of that name.
pub(crate) fn id_object(name: &str) -> String {
    format!("rbd_id.{name}")
}

/// Holds the metadata of the image with that id.
pub(crate) fn header_object(id: &str) -> String {
    format!("rbd_header.{id}")
}

/// Holds the metadata of an image of format 1.
pub(crate) fn v1_header_object(name: &str) -> String {
    format!("{name}.rbd")
}

/// What the names of data objects begin with in images of format 1. In format 2 that is `rbd_data.`.
const V1_DATA_PREFIX: &str = "rb.";

/// `<prefix>.<number, 16 hex digits>`, in format 1 only 12 of them, without the machinery of `format!`: it runs for
/// every request.
pub(crate) fn data_object(prefix: &str, object: u64) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut name = String::with_capacity(prefix.len() + 17);
    name.push_str(prefix);
    name.push('.');
    // An image has fewer than 2^48 objects.
    let unused = if prefix.starts_with(V1_DATA_PREFIX) { 2 } else { 0 };
    for byte in object.to_be_bytes().into_iter().skip(unused) {
        name.push(char::from(HEX[usize::from(byte >> 4)]));
        name.push(char::from(HEX[usize::from(byte & 15)]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_objects_have_sixteen_hex_digits_and_twelve_in_format_1() {
        assert_eq!(data_object("rb.0.1095.6b8b4567", 0x1f), "rb.0.1095.6b8b4567.00000000001f");
        assert_eq!(data_object("rbd_data.1015bf161a11", 0x1f), "rbd_data.1015bf161a11.000000000000001f");
        assert_eq!(data_object("p", u64::MAX), "p.ffffffffffffffff");
    }
}
