//! The steps of a decision, in plain words, a line each.

use std::io::{self, Write};
use std::time::Duration;

use weir_shm::segment::mailbox::{
    AffinityStep, BackendStep, ConntrackStep, ForwardingStep, LookupAnswer, LookupSteps, PoolStep,
    SchedulerStep, SessionStep, VipStep,
};

use crate::output::span;

pub(super) fn write(
    steps: &LookupSteps,
    answer: &LookupAnswer,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut line = |head: &str, text: String| writeln!(out, "{head:<11}{text}");
    line("vip", vip(&steps.vip))?;
    for step in &steps.conntrack {
        line("conntrack", conntrack(step))?;
    }
    if let Some(step) = &steps.affinity {
        line("affinity", affinity(step))?;
    }
    line(
        "scheduler",
        scheduler(&steps.scheduler, &steps.hash, answer),
    )?;
    line("pool", pool(&steps.pool))?;
    if let Some(step) = &steps.backend {
        line("health", backend(step))?;
    }
    if let Some(step) = &steps.session {
        line("session", session(step))?;
    }
    line("forwarding", forwarding(&steps.forwarding))
}

fn vip(step: &VipStep) -> String {
    let also = match step.less_specific.as_slice() {
        [] => String::new(),
        others => format!("; less specific: {}", others.join(", ")),
    };
    let form = match step.form.strip_prefix("prefix-") {
        Some(form) => format!("{form} of a prefix"),
        None => step.form.clone(),
    };
    format!("{}, matched as {form}{also}", step.listener)
}

/// A time span: exact below ten seconds.
fn time(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        longer => span(Duration::from_millis(longer)),
    }
}

fn conntrack(step: &ConntrackStep) -> String {
    let worker = step.worker;
    if !step.hit {
        return format!("worker {worker} does not hold the flow");
    }
    let kept = match step.kept {
        Some(false) => ", which takes it no more",
        _ => "",
    };
    format!(
        "worker {worker} holds it as {}, to {}{kept}; last packet {} ago, {} left",
        step.state.as_deref().unwrap_or("known"),
        step.backend.as_deref().unwrap_or("nobody"),
        time(step.idle_ms.unwrap_or(0)),
        time(step.left_ms.unwrap_or(0)),
    )
}

fn affinity(step: &AffinityStep) -> String {
    let Some(backend) = &step.backend else {
        return "the client is not known".to_owned();
    };
    let takes = if step.takes_new {
        ""
    } else {
        ", which takes no new flows"
    };
    format!(
        "the client has {backend}{takes}; confirmed {} ago, {} left",
        time(step.idle_ms.unwrap_or(0)),
        time(step.left_ms.unwrap_or(0)),
    )
}

fn scheduler(step: &SchedulerStep, hash: &str, answer: &LookupAnswer) -> String {
    let entry = match (answer.table_entry, answer.table_size) {
        (Some(entry), Some(size)) => format!(", entry {entry} of {size}"),
        _ => String::new(),
    };
    let pick = step.pick.as_deref().unwrap_or("nobody");
    let says = match step.choice.as_str() {
        "first" => format!("names {pick}"),
        "next" => format!("names {pick}, since its first choice holds as many flows as it may"),
        "full" => "finds every backend with as many flows as it may hold".to_owned(),
        "turn" => "takes turns, which only the workers know".to_owned(),
        "sequence" => "names a backend by the sequence number of the SYN".to_owned(),
        _ => "has nobody to name".to_owned(),
    };
    let members = match step.members {
        1 => "1 backend".to_owned(),
        number => format!("{number} backends"),
    };
    let name = &step.scheduler;
    format!("{name} over {members} (hash {hash}{entry}) {says}")
}

fn pool(step: &PoolStep) -> String {
    let share = format!("{}% of the weight is up", f64::from(step.healthy) / 10.0);
    match (step.all_down, step.fails_open) {
        (true, _) => format!("all backends are down; all_down = \"{}\"", step.policy),
        (false, true) => format!("{share}, fewer than min_healthy: those that are down serve, too"),
        (false, false) => share,
    }
}

fn backend(step: &BackendStep) -> String {
    let limit = step
        .max_flows
        .map_or_else(String::new, |most| format!(", at most {most} flows"));
    let check = match step.last_check.as_deref() {
        None => String::new(),
        Some("ok") => "; its last check was ok".to_owned(),
        Some(failure) => format!("; its last check failed: {failure}"),
    };
    format!(
        "{} is {}, weight {}{limit}{check}",
        step.backend, step.state, step.weight
    )
}

fn session(step: &SessionStep) -> String {
    format!(
        "worker {} speaks from {} to {}, {}; last packet {} ago, {} left",
        step.worker,
        step.from,
        step.to,
        step.state,
        time(step.idle_ms),
        time(step.left_ms),
    )
}

fn forwarding(step: &ForwardingStep) -> String {
    let mode = &step.mode;
    match (&step.next_hop, &step.port, &step.mac) {
        (Some(hop), Some(port), Some(mac)) => {
            format!("{mode}, to {hop} ({mac}) by port {port}")
        }
        (Some(hop), Some(port), None) => {
            format!("{mode}, to {hop} by port {port}, whose MAC is not known yet")
        }
        _ => format!("{mode}, to nobody"),
    }
}
