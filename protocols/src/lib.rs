//! Preserves on the wire, Syndicate packets, sturdyrefs and caveats.
