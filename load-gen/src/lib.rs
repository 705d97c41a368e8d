//! Load generator and checker for Syndicate brokers.
