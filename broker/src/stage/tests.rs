use staunch_flowctl::PrincipalLimits;
use staunch_protocols::wire::Int;
use staunch_system::net::Stream;

use super::*;
use crate::limits::Places;
use crate::relay::SessionConfig;
use crate::schedule::{Scheduler, SchedulerConfig};
use crate::server::Config;
use crate::settings::Settings;

/// What a worker had published and not flushed when it panicked arrives all the same.
#[test]
fn a_stage_that_is_dropped_has_others_flush() {
    let settings = Settings::of(&Config::default());
    let limits = crate::limits::Limits::default();
    let broker =
        Broker::new(PrincipalLimits::default(), u64::MAX, limits, Places::of(1024), settings).unwrap();
    let config = SchedulerConfig { workers: 1, ..SchedulerConfig::default() };
    let _ = broker.scheduler.set(Scheduler::start(config).unwrap());
    let (ours, theirs) = Stream::pair().unwrap();
    let limits = crate::limits::Limits::default();
    let config = SessionConfig { debt_max: 1000, outbox_max: 1000, ..broker.settings().session(&limits) };
    let connection = broker.ledger.principal("p").try_open().unwrap();
    let session = Session::open(&broker, theirs, connection, "p", "s", Cap::new(Entity::Inert), config);
    session.start().unwrap();
    let mut stage = Stage::default();
    stage.begin(session.account(), 0, u64::MAX);
    stage.next_turn();
    stage.synced(&Remote::new(session.clone(), Int::Small(1)));
    stage.publish_staged(&broker);
    assert_eq!(stage.dirty_count(), 1);
    assert!(session.account().debt() > 0);
    drop(stage);
    let mut buffer = [0; 64];
    let length = loop {
        match ours.read(&mut buffer) {
            Ok(length) => break length,
            Err(_) => std::thread::yield_now(),
        }
    };
    assert_eq!(buffer[..length], *b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\x81\x84\x84\x84");
    while session.account().debt() > 0 {
        std::thread::yield_now();
    }
    broker.scheduler().shutdown();
}
