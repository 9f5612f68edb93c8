//! What the control core knows, in the segment's words.

use weir_engine::buffer::BufferSource;
use weir_shm::model::{Admin, Backend, Forced, Service};
use weir_shm::segment::directory::{BackendEntry, BackendState, RunningDirectory, ServiceEntry};
use weir_shm::segment::mailbox::{Answer, BackendFlows, LookupAnswer, Question};

use crate::conntrack::Tick;
use crate::control::{Control, book};

/// The pool in force with its numbers and states.
pub fn directory<S: BufferSource>(control: &Control<S>) -> RunningDirectory {
    let pool = control.pool().clone();
    let services = pool
        .services
        .iter()
        .map(|service| entry(control, service))
        .collect();
    RunningDirectory {
        generation: control.generation(),
        pool,
        services,
    }
}

fn entry<S: BufferSource>(control: &Control<S>, service: &Service) -> ServiceEntry {
    let book = control.book();
    let backends = service
        .backends
        .iter()
        .map(|backend| {
            let name = backend.name(service);
            BackendEntry {
                number: book.number(&service.name, &name).unwrap_or_default(),
                state: state(service, backend, control.is_drained(&service.name, &name)),
            }
        })
        .collect();
    ServiceEntry {
        number: book.service_number(&service.name).unwrap_or_default(),
        backends,
    }
}

fn state(service: &Service, backend: &Backend, drained: bool) -> BackendState {
    let down = backend.forced == Forced::Down;
    match backend.admin {
        Admin::Disabled => BackendState::Disabled,
        Admin::Drain { .. } if drained => BackendState::Drained,
        Admin::Drain { .. } if down => BackendState::Down,
        Admin::Drain { .. } => BackendState::Draining,
        Admin::Enabled if backend.weight == 0 && down => BackendState::Down,
        Admin::Enabled if backend.weight == 0 => BackendState::Idle,
        Admin::Enabled if down && book::fails_open(service) => BackendState::FailOpen,
        Admin::Enabled if down => BackendState::Down,
        Admin::Enabled => BackendState::Up,
    }
}

/// The answer to an operator's question.
pub fn answer<S: BufferSource>(control: &Control<S>, now: Tick, question: &Question) -> Answer {
    match question {
        Question::Publish => Answer::Published,
        Question::Lookup {
            protocol,
            source,
            destination,
        } => {
            let found = control.lookup(now, *protocol, *source, *destination);
            Answer::Lookup(LookupAnswer {
                service: found.service,
                backend: found.backend,
                reason: found.reason.name().to_owned(),
                worker: found.worker.and_then(|worker| u32::try_from(worker).ok()),
                state: found.state.map(str::to_owned),
                idle_ms: found.idle_ms.map(u64::from),
                table_entry: found.table_entry.map(|(entry, _)| entry),
                table_size: found.table_entry.map(|(_, size)| size),
            })
        }
        Question::Flows { service, backend } => flows(control, now, service, backend.as_deref()),
    }
}

fn flows<S: BufferSource>(
    control: &Control<S>,
    now: Tick,
    service: &str,
    backend: Option<&str>,
) -> Answer {
    let Some(found) = control.pool().service(service) else {
        return Answer::Refused {
            reason: format!("no service \"{service}\""),
        };
    };
    let flows = control.flows(now);
    let names = found.backends.iter().map(|backend| backend.name(found));
    let backends: Vec<BackendFlows> = names
        .filter(|name| backend.is_none_or(|asked| asked == name))
        .map(|name| {
            let number = control.book().number(service, &name);
            let count = number
                .and_then(|number| flows.get(number as usize))
                .copied();
            BackendFlows {
                backend: name,
                flows: count.unwrap_or(0),
            }
        })
        .collect();
    match backend {
        Some(asked) if backends.is_empty() => Answer::Refused {
            reason: format!("no backend {asked} in service \"{service}\""),
        },
        _ => Answer::Flows { backends },
    }
}
