//! Limits: how much may be owed, by whom, and when a stopped source may go on.

/// The greatest cost that one charge may carry: 2^48 units.
///
/// A unit weighs about as much as a byte (F2: "cost is one number in which events and bytes both
/// weigh"), so a turn that costs more is a bug in the caller's cost function.
pub const COST_MAX: u64 = 1 << 48;

/// The greatest debt that an account or a principal may have: 2^60 units.
///
/// The field holding the debt has 62 bits, of which the upper half stands for "repaid too much".
/// The distance between this bound and the field's own is [`COST_MAX`] times 4096, so that many
/// charges would have to be in the middle of failing at once before anything wrapped.
pub const DEBT_MAX: u64 = 1 << 60;

// The relation that the doc comment above claims.
const _: () = assert!((1 << 61) - DEBT_MAX >= COST_MAX * 4096);

/// When a source is stopped, and when it may go on.
///
/// *Shape*: two numbers of cost units, `Copy`. A plain `u64` converts into limits without
/// hysteresis.
///
/// A source stops while its debt is *above* `limit`. Once somebody waits for it, it goes on when
/// the debt is *at or below* the resume level. By default that level is the limit itself;
/// with a lower one a stalled source is not woken for each byte that its slowest consumer took,
/// but once per `limit - resume_below` units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The greatest debt with which the source is still read, in cost units.
    pub limit: u64,
    /// The debt at or below which a stopped source goes on; `None`: the limit itself. Values above
    /// the limit mean the limit.
    pub resume_below: Option<u64>,
}

impl Limits {
    /// Limits without hysteresis.
    pub const fn new(limit: u64) -> Self {
        Limits { limit, resume_below: None }
    }

    /// No limit at all: the source is accounted for and never stopped.
    pub const fn unlimited() -> Self {
        Limits::new(u64::MAX)
    }

    /// The same limit, with hysteresis.
    #[must_use]
    pub const fn with_resume_below(self, resume_below: u64) -> Self {
        Limits { resume_below: Some(resume_below), ..self }
    }
}

impl From<u64> for Limits {
    fn from(limit: u64) -> Self {
        Limits::new(limit)
    }
}

/// What one principal may have: orphaned debt, and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrincipalLimits {
    /// The limit on its orphaned debt: while it is exceeded, new connections are not read.
    pub orphaned: Limits,
    /// How many connections it may have open at once.
    pub connections_max: u64,
}

impl PrincipalLimits {
    /// Limits that are never reached: for the broker's own sources, and for tests.
    pub const fn unlimited() -> Self {
        PrincipalLimits { orphaned: Limits::unlimited(), connections_max: u64::MAX }
    }
}

impl Default for PrincipalLimits {
    /// 64 Mi units of orphaned debt (about 64 MiB), resuming at half of it; 1,024 connections.
    fn default() -> Self {
        const ORPHANED: u64 = 64 << 20;
        PrincipalLimits {
            orphaned: Limits::new(ORPHANED).with_resume_below(ORPHANED / 2),
            connections_max: 1024,
        }
    }
}
