//! The header in front of every frame (virtio 1.2, 5.1.6) and the features it depends on.

/// Feature bits (virtio 1.2, 5.1.3).
pub(super) mod feature {
    pub(crate) const CSUM: u64 = 1 << 0;
    pub(crate) const GUEST_CSUM: u64 = 1 << 1;
    pub(crate) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    pub(crate) const MTU: u64 = 1 << 3;
    pub(crate) const MAC: u64 = 1 << 5;
    pub(crate) const GUEST_TSO4: u64 = 1 << 7;
    pub(crate) const GUEST_TSO6: u64 = 1 << 8;
    pub(crate) const GUEST_ECN: u64 = 1 << 9;
    pub(crate) const HOST_TSO4: u64 = 1 << 11;
    pub(crate) const HOST_TSO6: u64 = 1 << 12;
    pub(crate) const HOST_ECN: u64 = 1 << 13;
    pub(crate) const MRG_RXBUF: u64 = 1 << 15;
    pub(crate) const STATUS: u64 = 1 << 16;
    pub(crate) const CTRL_VQ: u64 = 1 << 17;
    pub(crate) const CTRL_RX: u64 = 1 << 18;
}

/// Bytes of the header with `num_buffers`, which VERSION_1 always has (virtio 1.2, 5.1.6.1).
pub const HEADER_BYTES: usize = 12;

/// Where `num_buffers` stands in it.
pub(super) const NUM_BUFFERS: usize = 10;

/// Shortest frame: two addresses and a type (IEEE 802.3, 3.1.1).
pub(super) const SHORTEST_FRAME: usize = 14;
/// Longest frame: a link header with one VLAN tag and the longest IP packet.
pub(super) const LONGEST_FRAME: usize = 18 + 65535;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM (virtio 1.2, 5.1.6).
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_F_DATA_VALID (virtio 1.2, 5.1.6).
pub(super) const DATA_VALID: u8 = 2;
/// VIRTIO_NET_HDR_GSO_* (virtio 1.2, 5.1.6).
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// Checks the header of a frame of `length` bytes against what the driver agreed to, and gives the
/// header that goes on: nothing in it that was not checked.
///
/// # Errors
/// What is wrong with it. Such a frame is dropped (virtio 1.2, 5.1.6.2.2).
pub(super) fn check(
    bytes: [u8; HEADER_BYTES],
    length: usize,
    features: u64,
) -> Result<[u8; HEADER_BYTES], &'static str> {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (flags, gso_type) = (bytes[0] & NEEDS_CSUM, bytes[1]);
    let (header_length, gso_size, start, offset) = (half(2), half(4), half(6), half(8));
    if !(SHORTEST_FRAME..=LONGEST_FRAME).contains(&length) {
        return Err("a frame length no network has");
    }
    let mut checked = [0; HEADER_BYTES];
    if flags & NEEDS_CSUM != 0 {
        if features & feature::CSUM == 0 {
            return Err("a checksum to fill in, which was not agreed");
        }
        let end = usize::from(start) + usize::from(offset) + 2;
        if usize::from(start) < SHORTEST_FRAME || end > length {
            return Err("a checksum outside the frame");
        }
        checked[0] = NEEDS_CSUM;
        checked[6..8].copy_from_slice(&start.to_le_bytes());
        checked[8..10].copy_from_slice(&offset.to_le_bytes());
    }
    if gso_type != 0 {
        let wanted = match gso_type & !GSO_ECN {
            GSO_TCPV4 => feature::HOST_TSO4,
            GSO_TCPV6 => feature::HOST_TSO6,
            _ => return Err("an unknown kind of segmentation"),
        };
        if features & wanted == 0 || (gso_type & GSO_ECN != 0 && features & feature::HOST_ECN == 0)
        {
            return Err("a kind of segmentation that was not agreed");
        }
        if flags & NEEDS_CSUM == 0 || gso_size == 0 {
            return Err("segmentation without a checksum or a size");
        }
        checked[1] = gso_type;
        // A hint only; a kernel that trusts it must not read past the frame.
        let hint = usize::from(header_length).min(length) as u16;
        checked[2..4].copy_from_slice(&hint.to_le_bytes());
        checked[4..6].copy_from_slice(&gso_size.to_le_bytes());
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    fn header(
        flags: u8,
        gso_type: u8,
        header_length: u16,
        gso_size: u16,
        start: u16,
        offset: u16,
    ) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        (bytes[0], bytes[1]) = (flags, gso_type);
        for (at, value) in [(2, header_length), (4, gso_size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn an_agreed_segmented_frame_passes_unchanged() {
        let good = header(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, 54, 1460, 34, 16);
        assert_eq!(check(good, 4000, ALL), Ok(good));
    }

    #[test]
    fn unknown_flags_hints_past_the_end_and_counts_are_taken_out() {
        let mut noisy = header(0xfe, 0, 9, 9, 9, 9);
        noisy[NUM_BUFFERS] = 7;
        assert_eq!(check(noisy, 60, ALL), Ok([0; HEADER_BYTES]));
        let hint = header(NEEDS_CSUM, GSO_TCPV6, u16::MAX, 1440, 54, 16);
        assert_eq!(check(hint, 100, ALL).unwrap()[2..4], 100u16.to_le_bytes());
    }

    #[test]
    fn absurd_headers_are_refused() {
        let no_csum = ALL & !feature::CSUM;
        let no_tso = ALL & !feature::HOST_TSO4;
        let no_ecn = ALL & !feature::HOST_ECN;
        for (bytes, length, features) in [
            (header(0, 0, 0, 0, 0, 0), 13, ALL),
            (header(0, 0, 0, 0, 0, 0), LONGEST_FRAME + 1, ALL),
            (header(NEEDS_CSUM, 0, 0, 0, 34, 16), 60, no_csum),
            (header(NEEDS_CSUM, 0, 0, 0, 34, 25), 60, ALL),
            (header(NEEDS_CSUM, 0, 0, 0, u16::MAX, u16::MAX), 60, ALL),
            (header(NEEDS_CSUM, 0, 0, 0, 2, 2), 60, ALL),
            (header(NEEDS_CSUM, GSO_TCPV4, 54, 1460, 34, 16), 4000, no_tso),
            (header(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, 54, 1460, 34, 16), 4000, no_ecn),
            (header(NEEDS_CSUM, GSO_TCPV4, 54, 0, 34, 16), 4000, ALL),
            (header(0, GSO_TCPV4, 54, 1460, 34, 16), 4000, ALL),
            (header(NEEDS_CSUM, 3, 54, 1460, 34, 16), 4000, ALL),
        ] {
            assert!(check(bytes, length, features).is_err(), "{bytes:?} {length}");
        }
    }
}
