//! AVIF boxes that describe the image. `imagesize` walks on behind them and takes offence at what may stand
//! there (a box that reaches to the end of the file, 64-bit sizes, anything that follows the image), so it is
//! given these alone.

/// The `ftyp` and `meta` boxes of an AVIF, one after the other; `None` when `meta` is not wholly there.
pub(super) fn descriptive_boxes(file: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut boxes) = (file, Vec::new());
    loop {
        let size = u64::from(u32::from_be_bytes(*rest.first_chunk()?));
        let kind = rest.get(4..8)?;
        let size = match size {
            0 => rest.len() as u64,
            1 => u64::from_be_bytes(*rest.get(8..)?.first_chunk()?),
            size => size,
        };
        let (this, behind) = rest.split_at_checked(usize::try_from(size.max(8)).ok()?)?;
        if matches!(kind, b"ftyp" | b"meta") {
            boxes.extend_from_slice(this);
        }
        if kind == b"meta" {
            return Some(boxes);
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Header, MediaType, read_header};

    #[test]
    fn the_size_of_an_avif_is_read_wherever_its_description_stands() {
        let still = include_bytes!("../../../tests/it/fixtures/images/still.avif");
        let media = still.windows(4).position(|kind| kind == b"mdat").unwrap() - 4;
        let (described, data) = still.split_at(media);
        let (brand, description) = described.split_at(32);
        let to_the_end = [&[0; 4], &data[4..]].concat();
        let long =
            [&1u32.to_be_bytes()[..], b"mdat", &(data.len() as u64 + 8).to_be_bytes(), &data[8..]].concat();
        for shape in [
            [described, data, &[0; 300]].concat(),
            [described, &data[..12], b"\0\0"].concat(),
            [described, &to_the_end].concat(),
            [brand, data, description].concat(),
            [brand, &long, description].concat(),
        ] {
            assert_eq!(
                read_header(&shape),
                Ok(Header { media_type: MediaType::Avif, width: 24, height: 16 })
            );
        }
        assert!(read_header(&still[..media - 1]).is_err());
    }
}
