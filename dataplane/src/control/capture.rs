//! Captures: what an operator asks for, in the numbers that workers know, put before the workers.

use std::sync::Arc;

use weir_engine::buffer::BufferSource;
use weir_shm::capture::Request;
use weir_shm::counters::DropReason;

use super::Control;
use crate::address::{Addr, Version};
use crate::capture::{Capture, Filter, Reasons};
use crate::listeners::network;

/// Reasons that are found where no capture looks any more: behind the packet path, in queues.
const UNSEEN: [DropReason; 6] = [
    DropReason::TxFull,
    DropReason::ControlQueueFull,
    DropReason::PeerQueueFull,
    DropReason::KernelQueueFull,
    DropReason::KernelRefused,
    DropReason::FragmentTimeout,
];

impl<S: BufferSource> Control<S> {
    /// Begins a capture, in place of the one that there is.
    ///
    /// # Errors
    /// What is wrong with the request, in an operator's words.
    pub fn begin_capture(&mut self, request: &Request) -> Result<Arc<Capture>, String> {
        let filter = self.filter(request)?;
        if request.sample == 0 || request.snaplen == 0 {
            return Err("sample and snaplen must be at least 1".to_owned());
        }
        let workers = self.config.engine.workers.len();
        let capture = Capture::new(filter, request.sample, request.snaplen, workers);
        let capture = Arc::new(capture);
        self.capture = Some(Arc::clone(&capture));
        self.captures += 1;
        self.publish_again();
        Ok(capture)
    }

    /// Ends the capture. Workers may add to it until they have read what is published now.
    pub fn end_capture(&mut self) {
        self.capture = None;
        self.publish_again();
    }

    fn publish_again(&mut self) {
        let current = self.publisher.current();
        let (services, adjacency) = (
            Arc::clone(&current.services),
            Arc::clone(&current.adjacency),
        );
        self.publish(services, adjacency);
    }

    /// The names of the ports, by number.
    #[must_use]
    pub fn port_names(&self) -> Vec<String> {
        let ports = self.config.ports.iter();
        ports.map(|port| port.name.clone()).collect()
    }

    fn filter(&self, request: &Request) -> Result<Filter, String> {
        let service = match &request.service {
            None => None,
            Some(name) => {
                let number = self.book.service_number(name);
                Some(number.ok_or_else(|| format!("no service \"{name}\""))?)
            }
        };
        let address = match request.address {
            None => None,
            Some((address, prefix)) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                if prefix > bits {
                    return Err(format!("found prefix /{prefix}; accepted: up to /{bits}"));
                }
                let version = Version::of(&address);
                let network = network(version, Addr::from(address), prefix);
                Some((version, network, prefix))
            }
        };
        let (interface, port) = self.ports(request.port.as_deref())?;
        Ok(Filter {
            service,
            backends: self.backends(request)?,
            address,
            interface,
            port,
            drops: drops(request)?,
            incoming: request.incoming,
            outgoing: request.outgoing,
        })
    }

    /// The numbers of all backends of a name.
    fn backends(&self, request: &Request) -> Result<Option<Box<[u32]>>, String> {
        let Some(name) = &request.backend else {
            return Ok(None);
        };
        let is_asked =
            |service: &str| (request.service.as_deref()).is_none_or(|asked| asked == service);
        let services = self.pool.services.iter();
        let numbers: Box<[u32]> = services
            .filter(|service| is_asked(&service.name))
            .filter(|service| {
                (service.backends.iter()).any(|backend| backend.name(service) == *name)
            })
            .filter_map(|service| self.book.number(&service.name, name))
            .collect();
        if numbers.is_empty() {
            return Err(match &request.service {
                Some(service) => format!("no backend {name} in service \"{service}\""),
                None => format!("no backend {name} in any service"),
            });
        }
        Ok(Some(numbers))
    }

    /// A port of weir's by name, or one of TCP or UDP by number.
    fn ports(&self, asked: Option<&str>) -> Result<(Option<u16>, Option<u16>), String> {
        let Some(asked) = asked else {
            return Ok((None, None));
        };
        let names = self.port_names();
        if let Some((number, _)) = (0u16..).zip(&names).find(|(_, name)| *name == asked) {
            return Ok((Some(number), None));
        }
        match asked.parse() {
            Ok(number) => Ok((None, Some(number))),
            Err(_) => Err(format!(
                "found port \"{asked}\"; accepted: \"{}\", or the number of a TCP or UDP port",
                names.join("\", \"")
            )),
        }
    }
}

fn drops(request: &Request) -> Result<Option<Reasons>, String> {
    if request.reasons.is_empty() {
        return Ok(request.drops.then_some(Reasons::ALL));
    }
    let mut reasons = Reasons::default();
    for name in &request.reasons {
        let known = (DropReason::ALL.iter()).find(|reason| reason.name() == name);
        match known {
            None => {
                return Err(format!(
                    "found drop reason \"{name}\"; accepted: those that \"weirctl stats\" lists"
                ));
            }
            Some(reason) if UNSEEN.contains(reason) => {
                return Err(format!(
                    "packets dropped as \"{name}\" are lost in queues, where no capture looks; \
                     \"weirctl stats\" counts them"
                ));
            }
            Some(reason) => reasons = reasons.with(*reason),
        }
    }
    Ok(Some(reasons))
}
