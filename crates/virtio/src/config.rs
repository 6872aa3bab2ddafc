//! Configuration space as bytes.

/// Reads `data.len()` bytes at `offset` of a device's configuration; bytes past its end are zero.
pub(crate) fn read(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|at| config.get(at..));
    if let Some(rest) = rest {
        let length = rest.len().min(data.len());
        data[..length].copy_from_slice(&rest[..length]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_read_across_or_past_the_end_gives_zeros_there() {
        let mut data = [0xff; 4];
        super::read(&[1, 2, 3], 2, &mut data);
        assert_eq!(data, [3, 0, 0, 0]);
        super::read(&[1, 2, 3], u64::MAX, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
