//! What the control core knows, in the segment's words.

use weir_engine::buffer::BufferSource;
use weir_shm::model::Service;
use weir_shm::segment::directory::{BackendEntry, BackendState, RunningDirectory, ServiceEntry};
use weir_shm::segment::mailbox::{
    Answer, BackendHealth, ConnectionIdReading, LookupAnswer, Question,
};

use crate::conntrack::Tick;
use crate::control::Control;
use crate::control::census::Census;
use crate::control::health::ramp::STEPS;

/// The pool in force with its numbers and states.
pub fn directory<S: BufferSource>(control: &Control<S>) -> RunningDirectory {
    let pool = control.pool().clone();
    let services = pool
        .services
        .iter()
        .enumerate()
        .map(|(place, service)| entry(control, place, service))
        .collect();
    RunningDirectory {
        generation: control.generation(),
        pool,
        services,
    }
}

fn entry<S: BufferSource>(control: &Control<S>, place: usize, service: &Service) -> ServiceEntry {
    let book = control.book();
    let states = states(control, place);
    let numbers = book.numbers(&service.name).iter().copied();
    let backends = numbers.chain(std::iter::repeat(0)).zip(states);
    ServiceEntry {
        number: book.service_number(&service.name).unwrap_or_default(),
        backends: backends
            .map(|(number, state)| BackendEntry { number, state })
            .collect(),
    }
}

/// What became of the backends of the service at this place, in order.
pub fn states<S: BufferSource>(control: &Control<S>, place: usize) -> Vec<BackendState> {
    let standings = control.standings(place);
    let service = control.pool().services.get(place);
    let count = service.map_or(0, |service| service.backends.len());
    let state = |place| standings.map_or(BackendState::Up, |all| all.backend(place).state);
    (0..count).map(state).collect()
}

/// The answer to an operator's question.
pub fn answer<S: BufferSource>(control: &Control<S>, now_ns: u64, question: &Question) -> Answer {
    let now = Tick::from_nanos(now_ns);
    match question {
        Question::Publish => Answer::Published,
        // They change something, which is not done here.
        Question::Reload | Question::Capture(_) | Question::EndCapture => Answer::Refused {
            reason: "this is no question".to_owned(),
        },
        Question::Lookup {
            protocol,
            source,
            destination,
            connection_id,
        } => {
            let (protocol, source, destination) = (*protocol, *source, *destination);
            let (found, reading) = match connection_id {
                None => (control.lookup(now, protocol, source, destination), None),
                Some(id) => {
                    control.lookup_connection(now, protocol, source, destination, id.octets())
                }
            };
            let steps =
                control.explain(now, protocol, source, destination, found.backend.as_deref());
            Answer::Lookup(Box::new(LookupAnswer {
                steps,
                elsewhere: control.elsewhere(now, protocol, source, destination),
                service: found.service,
                backend: found.backend,
                reason: found.reason.name().to_owned(),
                worker: found.worker.and_then(|worker| u32::try_from(worker).ok()),
                state: found.state.map(str::to_owned),
                idle_ms: found.idle_ms.map(u64::from),
                table_entry: found.table_entry.map(|(entry, _)| entry),
                table_size: found.table_entry.map(|(_, size)| size),
                connection_id: reading.map(|reading| ConnectionIdReading {
                    rotation: reading.rotation,
                    outcome: reading.outcome.name().to_owned(),
                    server_id: reading.server_id.map(|id| id.to_string()),
                    backend: reading.backend,
                }),
            }))
        }
        Question::Health { service } => health(control, now_ns, service),
        Question::Flows { .. } | Question::Census { .. } => {
            counted(control, &Census::whole(control, now), question)
        }
        Question::Newest {
            service,
            backend,
            most,
        } => control.newest(now, service.as_deref(), backend.as_deref(), *most),
    }
}

/// The answer to a question about flows that have been counted.
pub fn counted<S: BufferSource>(
    control: &Control<S>,
    census: &Census,
    question: &Question,
) -> Answer {
    match question {
        Question::Flows { service, backend } => census.flows(control, service, backend.as_deref()),
        Question::Census { service, backend } => {
            census.answer(control, service.as_deref(), backend.as_deref())
        }
        _ => Answer::Refused {
            reason: "this is no question about flows".to_owned(),
        },
    }
}

fn health<S: BufferSource>(control: &Control<S>, now: u64, service: &str) -> Answer {
    let services = &control.pool().services;
    let found = services.iter().position(|found| found.name == service);
    let Some((place, found)) = found.and_then(|place| Some((place, services.get(place)?))) else {
        return Answer::Refused {
            reason: format!("no service \"{service}\""),
        };
    };
    let standings = control.standings(place);
    let backends = found.backends.iter().enumerate().map(|(nth, backend)| {
        let name = backend.name(found);
        let details = control.checker().details(service, &name);
        let last = details.as_ref().and_then(|details| details.last.as_ref());
        let share = standings.map_or(STEPS, |standings| standings.backend(nth).share);
        BackendHealth {
            checks: details.as_ref().map_or(0, |details| details.checks.0),
            failed: details.as_ref().map_or(0, |details| details.checks.1),
            last: last.map(|(outcome, ..)| match outcome {
                Ok(()) => "ok".to_owned(),
                Err(failure) => failure.to_string(),
            }),
            last_ago_ms: last.map(|(_, at, _)| now.saturating_sub(*at) / 1_000_000),
            last_took_us: last.map(|(_, _, took)| took / 1_000),
            held_ms: details
                .and_then(|details| details.held_until)
                .map(|until| until.saturating_sub(now) / 1_000_000),
            share: share * (100 / STEPS),
            backend: name,
        }
    });
    Answer::Health {
        backends: backends.collect(),
    }
}
