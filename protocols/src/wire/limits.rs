//! What a peer may send at most.

/// Bounds on one packet. Checked while the bytes arrive, so a packet that breaks one is refused before it is
/// complete, and nothing is ever allocated from a declared length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest packet, in bytes.
    pub packet_bytes_max: u32,
    /// Deepest nesting, counting compounds, annotations and embedded values.
    pub depth_max: u16,
    /// Most tokens (atoms, openings and ends of compounds) in one packet; each costs 8 bytes of [`super::Tape`].
    pub tokens_max: u32,
    /// Longest integer, in bytes of its two's complement form.
    pub integer_bytes_max: u32,
}

impl Limits {
    /// None but those of the numbers themselves: for values that have been checked before.
    pub const NONE: Limits = Limits {
        packet_bytes_max: u32::MAX,
        depth_max: u16::MAX,
        tokens_max: u32::MAX,
        integer_bytes_max: u32::MAX,
    };
}

impl Default for Limits {
    /// 16 MiB, 256 levels, 4 Mi tokens (32 MiB of tape), integers of 1 KiB.
    fn default() -> Limits {
        Limits { packet_bytes_max: 16 << 20, depth_max: 256, tokens_max: 4 << 20, integer_bytes_max: 1024 }
    }
}
