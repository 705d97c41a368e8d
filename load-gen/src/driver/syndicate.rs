//! Syndicate brokers: staunch, and the reference implementation.

use super::{Driver, Launch, Place, Session};
use crate::client::{Barrier, Client, Contact, Error};
use crate::flow::says_pattern;
use crate::sink::{OBSERVER_OID, Observers, Subscriptions};
use crate::wire::encode;

/// `staunch serve`.
#[derive(Debug)]
pub struct Staunch;

/// `syndicate-server`.
#[derive(Debug)]
pub struct Reference;

impl Driver for Staunch {
    fn kind(&self) -> &'static str {
        "staunch"
    }

    fn launch(&self, place: &Place) -> Launch {
        let address = place.tcp();
        let args = ["serve", "--dev", "--listen", &address.to_string()].map(str::to_owned).to_vec();
        Launch { args, files: vec![], address }
    }

    fn open(
        &self,
        contact: Contact<'_>,
        topics: &[String],
        subscriptions: Subscriptions,
    ) -> Result<Session, Error> {
        open(contact, topics, subscriptions)
    }

    fn frame(&self, target: u64, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> usize {
        says(target, topic, payload, out)
    }
}

impl Driver for Reference {
    fn kind(&self) -> &'static str {
        "syndicate-server"
    }

    fn launch(&self, place: &Place) -> Launch {
        let config = place.file("server.pr");
        let text = format!(
            "let ?ds = dataspace\n<bind <ref {{oid: \"syndicate\" key: #x\"\"}}> $ds #f>\n\
             <require-service <relay-listener <tcp \"127.0.0.1\" {}> $gatekeeper>>\n",
            place.port
        );
        let args = vec!["-c".to_owned(), config.display().to_string()];
        Launch { args, files: vec![(config, text)], address: place.tcp() }
    }

    fn open(
        &self,
        contact: Contact<'_>,
        topics: &[String],
        subscriptions: Subscriptions,
    ) -> Result<Session, Error> {
        open(contact, topics, subscriptions)
    }

    fn frame(&self, target: u64, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> usize {
        says(target, topic, payload, out)
    }
}

/// Observes `<Says topic $payload>` for each topic.
fn open(contact: Contact<'_>, topics: &[String], subscriptions: Subscriptions) -> Result<Session, Error> {
    let mut client = Client::open(contact, Barrier::Sync)?;
    let mut packet = vec![];
    encode::turn(&mut packet, |out| {
        for (i, topic) in topics.iter().enumerate() {
            client.observe_into(out, &says_pattern(topic), OBSERVER_OID + i as u64);
        }
    });
    client.send(&packet)?;
    client.barrier()?;
    let target = client.dataspace();
    let (fd, decoder, kept) = client.into_parts();
    Ok(Session { fd, kept, sink: Box::new(Observers::new(decoder, subscriptions)), target })
}

/// A Turn with the message `<Says topic payload>`.
fn says(target: u64, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> usize {
    let mut at = 0;
    encode::turn(out, |out| {
        encode::message(out, target, |out| {
            encode::record(out, "Says", |out| {
                encode::string(out, topic);
                encode::bytes(out, payload);
                at = out.len() - payload.len();
            });
        });
    });
    at
}
