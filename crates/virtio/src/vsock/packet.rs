//! The header in front of every vsock packet (virtio 1.2, 5.10.6).

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 44;

/// The host's address, VMADDR_CID_HOST (virtio 1.2, 5.10.4).
pub(super) const HOST_CID: u64 = 2;

/// VIRTIO_VSOCK_TYPE_STREAM (virtio 1.2, 5.10.6.2).
pub(super) const STREAM: u16 = 1;

/// What a packet asks for (virtio 1.2, 5.10.6).
pub(super) mod operation {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RESET: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const DATA: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: the sender of the packet will take no more data (5.10.6.5).
pub(super) const NO_MORE_RECEIVE: u32 = 1;
/// VIRTIO_VSOCK_SHUTDOWN_F_SEND: the sender of the packet will send no more data (5.10.6.5).
pub(super) const NO_MORE_SEND: u32 = 2;
/// Both directions are over.
pub(super) const CLOSED: u32 = NO_MORE_RECEIVE | NO_MORE_SEND;

/// One packet's header, every field as it stands on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    /// Bytes of data behind the header.
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    /// `buf_alloc`: bytes the sender of the packet can hold in all.
    pub(super) window: u32,
    /// `fwd_cnt`: bytes the sender of the packet has taken so far, wrapping.
    pub(super) forwarded: u32,
}

impl Header {
    /// Reads the wire's little-endian form.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let quad = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(field)
        };
        let word = |at: usize| {
            let mut field = [0; 4];
            field.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(field)
        };
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            source_cid: quad(0),
            destination_cid: quad(8),
            source_port: word(16),
            destination_port: word(20),
            length: word(24),
            kind: half(28),
            operation: half(30),
            flags: word(32),
            window: word(36),
            forwarded: word(40),
        }
    }

    /// The wire's little-endian form.
    pub(super) fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.source_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.destination_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.source_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.destination_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.window.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.forwarded.to_le_bytes());
        bytes
    }

    /// The reset that answers this packet: same type, ends swapped.
    pub(super) fn reset(&self) -> Self {
        Self {
            source_cid: self.destination_cid,
            destination_cid: self.source_cid,
            source_port: self.destination_port,
            destination_port: self.source_port,
            kind: self.kind,
            operation: operation::RESET,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header {
            source_cid: 0x0102_0304_0506_0708,
            destination_cid: HOST_CID,
            source_port: 0x1122_3344,
            destination_port: 0x5566_7788,
            length: 0x99aa_bbcc,
            kind: STREAM,
            operation: operation::DATA,
            flags: CLOSED,
            window: 0xddee_ff00,
            forwarded: 0xffff_fffe,
        };
        let bytes = header.bytes();
        assert_eq!(bytes[0], 0x08, "little-endian");
        assert_eq!(Header::parse(&bytes), header);
        let reset = header.reset();
        assert_eq!(reset.source_port, 0x5566_7788);
        assert_eq!(reset.operation, operation::RESET);
        assert_eq!(reset.length, 0);
    }
}
