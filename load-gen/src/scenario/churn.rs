//! Assertions that come and go, seen by one observer.

use crate::assertions::{Churn, Expectation, Follower};
use crate::client::{Client, Error};
use crate::drive::Port;
use crate::flow::Flow;
use crate::report::Sample;
use crate::settings::Settings;
use crate::sink::{OBSERVER_OID, Observers, Subscriptions};
use crate::source::Control;
use crate::wire::encode::Pattern;

/// Asserts and retracts `<Present n>`; `live` of them are alive at a time beyond the one being retracted. The
/// point's messages are events: each assertion and each retraction is one.
pub fn run(settings: &Settings, live: u64) -> Result<Vec<Sample>, Error> {
    settings.require_syndicate("churn")?;
    let mut observer = Client::open(settings.contact(), settings.barrier)?;
    observer.observe(&Pattern::Rec("Present", vec![(0, Pattern::Bind)]), OBSERVER_OID)?;
    observer.barrier()?;
    let (fd, decoder, kept) = observer.into_parts();
    let follower = Follower::new(decoder, Expectation::Churned { live });
    let observer = Port::new(fd, kept, None, Box::new(follower));

    let client = Client::open(settings.contact(), settings.barrier)?;
    let control = Control::new();
    let churn = Churn::new(
        client.dataspace(),
        live,
        settings.events_per_packet,
        settings.write_bytes,
        control.clone(),
    );
    let (fd, decoder, kept) = client.into_parts();
    let nothing = Subscriptions::by_literal(vec![], 0, settings.scrutiny(false));
    let sink = Observers::new(decoder, nothing);
    let producer = Port::new(fd, kept, Some(Box::new(churn)), Box::new(sink));

    let lanes = if settings.threads > 1 {
        vec![vec![producer], vec![observer]]
    } else {
        vec![vec![producer, observer]]
    };
    let mut flow = Flow::of(lanes, vec![control])?;
    let mut sample = flow.measure(settings, &format!("churn, {live} live"))?;
    // The producer's count is of assertions; as many retractions went with them.
    sample.messages *= 2;
    Ok(vec![sample])
}
