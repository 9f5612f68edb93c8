//! Finding the next hop's MAC by ARP or NDP before the first packet is sent, and answering for our
//! own addresses meanwhile and later.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weir_engine::ArrayVec;
use weir_engine::buffer::{Buffer, BufferSource};
use weir_engine::mbuf::Mbuf;
use weir_engine::mempool::Mempool;
use weir_engine::queue::{Queue, TxQueue};
use weir_engine::wire::ethernet::MacAddr;

use super::progress::Signals;
use super::{BURST, LiveError};
use crate::neighbour::{self, Message};
use crate::range::AddressRange;

/// How often the question is repeated.
const REPEAT: Duration = Duration::from_millis(200);

/// The addresses that the generator answers for, all with its own MAC.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its clients.
    pub clients: AddressRange,
    /// Further addresses: a router that weir sends clients' packets to.
    pub addresses: Vec<IpAddr>,
    /// Its MAC.
    pub mac: MacAddr,
}

impl Owner {
    /// The answer to `frame`, if it is a question about one of the addresses.
    #[must_use]
    pub fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let question = neighbour::read(frame)?;
        let Message::Question { target, .. } = question else {
            return None;
        };
        let ours = self.addresses.contains(&target) || self.clients.contains(target);
        if ours {
            neighbour::answer(&question, self.mac)
        } else {
            None
        }
    }
}

/// Sends `frame` on `queue`: at once or not at all. Says whether it went.
pub(crate) fn send(pool: &mut Mempool, queue: &mut TxQueue, frame: &[u8]) -> bool {
    let mut one: ArrayVec<Mbuf, 1> = ArrayVec::new();
    match pool.copy_from(frame) {
        Some(mbuf) => {
            one.push(mbuf);
            queue.send(&mut one) == 1
        }
        None => false,
    }
}

/// What to ask for, where, and for how long.
#[derive(Debug)]
pub struct Question<'a> {
    /// The device's name.
    pub device: &'a str,
    /// The address asked for.
    pub hop: IpAddr,
    /// The tag of the frames.
    pub vlan: Option<u16>,
    /// When to give up.
    pub limit: Duration,
}

/// Asks for a next hop's MAC over a device's queues until somebody answers.
///
/// # Errors
/// [`LiveError::Unresolved`] at the limit, [`LiveError::Interrupted`] on a signal,
/// [`LiveError::NoAsker`] when there is no address of the hop's family.
pub fn resolve(
    question: &Question<'_>,
    owner: &Owner,
    pool: &mut Mempool,
    queues: &mut [Queue],
    signals: &Signals,
) -> Result<MacAddr, LiveError> {
    let hop = question.hop;
    let first = owner.clients.nth(0);
    let asker = owner
        .addresses
        .iter()
        .copied()
        .find(|a| a.is_ipv4() == hop.is_ipv4())
        .unwrap_or(first);
    let frame = neighbour::question(hop, asker, owner.mac, question.vlan)
        .ok_or(LiveError::NoAsker { hop, asker })?;
    let start = Instant::now();
    let mut asked: Option<Instant> = None;
    let mut burst: ArrayVec<Mbuf, BURST> = ArrayVec::new();
    while start.elapsed() < question.limit {
        if signals.raised() {
            return Err(LiveError::Interrupted);
        }
        for queue in queues.iter_mut() {
            if queue.index() == 0 && asked.is_none_or(|asked| asked.elapsed() >= REPEAT) {
                send(pool, &mut queue.tx, &frame);
                asked = Some(Instant::now());
            }
            queue.rx.receive(&mut burst);
            for mbuf in burst.drain(..) {
                if let Some(Message::Answer { address, mac }) = neighbour::read(mbuf.data())
                    && address == hop
                {
                    return Ok(mac);
                }
                if let Some(reply) = owner.answer(mbuf.data()) {
                    send(pool, &mut queue.tx, &reply);
                }
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let (device, waited) = (question.device.to_owned(), question.limit);
    Err(LiveError::Unresolved {
        device,
        hop,
        waited,
    })
}
