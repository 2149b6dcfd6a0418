//! Sizes on the command line, the way `rbd` reads them.

use clap::Args as ClapArgs;

use crate::report::Error;
use crate::spec::UsageError;

/// The size of an image.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub(crate) struct SizeArgs {
    /// Size of the image, in MiB or with a unit: 512, 10G, 4096B
    #[arg(short, long, value_name = "SIZE", value_parser = image_size)]
    size: Option<u64>,
}

impl SizeArgs {
    /// Bytes.
    pub(crate) fn required(self) -> Result<u64, Error> {
        Ok(self.size.ok_or(UsageError::Missing { what: "--size" })?)
    }
}

/// Bytes; a number without unit is MiB. Ceph: `validate` for `ImageSize` in `src/tools/rbd/ArgumentTypes.cc`.
pub(crate) fn image_size(text: &str) -> Result<u64, String> {
    let number = bytes(text)?;
    if text.ends_with(|c: char| c.is_ascii_digit()) {
        return number.checked_mul(1 << 20).ok_or_else(|| TOO_LARGE.to_owned());
    }
    Ok(number)
}

/// Bytes; a number without unit is bytes, too. Ceph: `validate` for `ImageObjectSize`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    ceph_conf::parse_size(text)
        .ok_or_else(|| "expected a number, and a unit such as B, K, M, G or T behind it".to_owned())
}

const TOO_LARGE: &str = "that is more than an image can have";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_number_is_mebibytes_for_images_and_bytes_for_objects() {
        for (text, image, object) in [
            ("1", 1 << 20, 1),
            ("512", 512 << 20, 512),
            ("4096B", 4096, 4096),
            ("1K", 1024, 1024),
            ("1Ki", 1024, 1024),
            ("1G", 1 << 30, 1 << 30),
            ("2T", 2 << 40, 2 << 40),
        ] {
            assert_eq!(image_size(text), Ok(image), "{text}");
            assert_eq!(bytes(text), Ok(object), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "-1", "1.5G", "1X", "1 G", "17592186044416", "99999999E"] {
            assert!(image_size(text).is_err(), "{text}");
        }
    }
}
