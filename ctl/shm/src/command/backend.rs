//! `backend …`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Change, Endpoint, Refused, service_mut, unknown_service};
use crate::duration;
use crate::model::{Admin, Backend, Forced, Pool, ServerIdOption, ServerIds, Service};

/// A command about backends.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum BackendCommand {
    /// List a service's backends
    #[command(after_help = "Example:\n  weirctl backend list web")]
    List {
        /// The service
        service: String,
    },
    /// Add a backend to a service
    #[command(after_help = "Example:\n  weirctl backend add web 10.0.0.13:8080 --weight 4")]
    Add {
        /// Which
        #[command(flatten)]
        target: Target,
        /// Its share of new flows relative to the others, 0 to 65535
        #[arg(long, default_value_t = 1)]
        weight: u32,
        /// Flows that it may hold [default: as many as come]
        #[arg(long, value_name = "COUNT")]
        max_flows: Option<u32>,
        /// What QUIC connection IDs call it: HEX for every configuration, or ROTATION=HEX for one;
        /// may be repeated
        #[arg(long = "server-id", value_name = "HEX")]
        server_ids: Vec<ServerIdOption>,
    },
    /// Remove a backend; its flows go to other backends
    #[command(after_help = "Example:\n  weirctl backend remove web 10.0.0.11:8080")]
    Remove {
        /// Which
        #[command(flatten)]
        target: Target,
    },
    /// Let a drained or disabled backend take flows again
    #[command(after_help = "Example:\n  weirctl backend enable web 10.0.0.11:8080")]
    Enable {
        /// Which
        #[command(flatten)]
        target: Target,
    },
    /// Take a backend's flows away at once
    #[command(after_help = "Example:\n  weirctl backend disable web 10.0.0.11:8080")]
    Disable {
        /// Which
        #[command(flatten)]
        target: Target,
    },
    /// Give a backend no new flows and let its old ones finish
    #[command(
        after_help = "Example:\n  weirctl backend drain web 10.0.0.11:8080 --timeout 300s --wait"
    )]
    Drain {
        /// Which
        #[command(flatten)]
        target: Target,
        /// Take away after this time what has not finished by itself, or "never" [default: the
        /// service's deregistration_delay]
        #[arg(long, value_name = "DURATION", value_parser = duration::parse_or_never)]
        timeout: Option<Duration>,
        /// Return when no flow is left, or at the time-out
        #[arg(long)]
        wait: bool,
        /// Even if no other backend takes new flows
        #[arg(long)]
        force: bool,
    },
    /// Set a backend's share of new flows
    #[command(after_help = "Example:\n  weirctl backend weight web 10.0.0.11:8080 4")]
    Weight {
        /// Which
        #[command(flatten)]
        target: Target,
        /// Relative to the others, 0 to 65535; 0 takes no new flows
        weight: u32,
    },
    /// Override a backend's health
    #[command(after_help = "Example:\n  weirctl backend force web 10.0.0.11:8080 down")]
    Force {
        /// Which
        #[command(flatten)]
        target: Target,
        /// up, down, or auto (health decides)
        state: Forced,
    },
}

/// A backend of a service.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Target {
    /// The service
    pub service: String,
    /// The backend as "backend list" names it; the address alone if the service's port is "any"
    #[arg(value_name = "ADDRESS:PORT")]
    pub backend: Endpoint,
}

impl BackendCommand {
    /// The service that it is about.
    #[must_use]
    pub fn service(&self) -> &str {
        match self {
            Self::List { service } => service,
            Self::Add { target, .. }
            | Self::Remove { target }
            | Self::Enable { target }
            | Self::Disable { target }
            | Self::Drain { target, .. }
            | Self::Weight { target, .. }
            | Self::Force { target, .. } => &target.service,
        }
    }

    pub(super) const fn is_read_only(&self) -> bool {
        matches!(self, Self::List { .. })
    }

    pub(super) fn apply_to(&self, pool: &mut Pool) -> Result<Change, Refused> {
        match self {
            Self::List { service } => match pool.service(service) {
                Some(_) => Ok(Change::default()),
                None => Err(unknown_service(pool, service)),
            },
            Self::Add {
                target,
                weight,
                max_flows,
                server_ids,
            } => target.add(pool, *weight, *max_flows, server_ids),
            Self::Remove { target } => {
                let (service, place) = target.find(pool)?;
                let name = service.backends[place].name(service);
                service.backends.remove(place);
                Ok(Change::done(format!(
                    "removed backend {name} from {}",
                    service.name
                )))
            }
            Self::Enable { target } => target.set(pool, "enabled", |backend, _| {
                backend.admin = Admin::Enabled;
            }),
            Self::Disable { target } => target.set(pool, "disabled", |backend, _| {
                backend.admin = Admin::Disabled;
            }),
            Self::Drain {
                target,
                timeout,
                force,
                ..
            } => {
                if !force {
                    target.refuse_if_last(pool)?;
                }
                target.set(pool, "draining", |backend, delay| {
                    backend.admin = Admin::Drain {
                        timeout: timeout.unwrap_or(delay),
                    };
                })
            }
            Self::Weight { target, weight } => {
                target.set(pool, &format!("weight {weight} for"), |backend, _| {
                    backend.weight = *weight;
                })
            }
            Self::Force { target, state } => {
                let what = match state {
                    Forced::Auto => "no longer forced:".to_owned(),
                    state => format!("forced {state}"),
                };
                target.set(pool, &what, |backend, _| backend.forced = *state)
            }
        }
    }
}

impl Target {
    /// The backend's place in its service.
    ///
    /// # Errors
    /// When either is not there, with those that are.
    pub fn find<'a>(&self, pool: &'a mut Pool) -> Result<(&'a mut Service, usize), Refused> {
        let service = service_mut(pool, &self.service)?;
        let port = self.backend.port_in(service).map_err(Refused::Invalid)?;
        let place = service
            .backends
            .iter()
            .position(|backend| backend.address == self.backend.address && backend.port == port);
        match place {
            Some(place) => Ok((service, place)),
            None => Err(Refused::UnknownBackend {
                service: service.name.clone(),
                found: Backend::new(self.backend.address, port).name(service),
                known: service
                    .backends
                    .iter()
                    .map(|backend| backend.name(service))
                    .collect(),
            }),
        }
    }

    /// Draining the last backend that takes new flows is most likely a mistake.
    fn refuse_if_last(&self, pool: &mut Pool) -> Result<(), Refused> {
        let (service, place) = self.find(pool)?;
        let takes = |backend: &Backend| backend.admin == Admin::Enabled && backend.weight > 0;
        let others = service
            .backends
            .iter()
            .enumerate()
            .any(|(other, backend)| other != place && takes(backend));
        if others || !takes(&service.backends[place]) {
            return Ok(());
        }
        Err(Refused::Last {
            service: service.name.clone(),
            backend: service.backends[place].name(service),
        })
    }

    fn add(
        &self,
        pool: &mut Pool,
        weight: u32,
        max_flows: Option<u32>,
        server_ids: &[ServerIdOption],
    ) -> Result<Change, Refused> {
        let service = service_mut(pool, &self.service)?;
        let port = self.backend.port_in(service).map_err(Refused::Invalid)?;
        let backend = Backend {
            weight,
            max_flows,
            server_ids: ServerIds::of_options(server_ids).map_err(Refused::Invalid)?,
            ..Backend::new(self.backend.address, port)
        };
        let name = backend.name(service);
        if service.backend(&name).is_some() {
            return Err(Refused::Exists {
                what: format!("backend {name} of service \"{}\"", service.name),
                hint: "change it with \"backend weight\", \"enable\", \"drain\" or \"disable\""
                    .to_owned(),
            });
        }
        service.backends.push(backend);
        Ok(Change::done(format!(
            "added backend {name} to {} with weight {weight}",
            service.name
        )))
    }

    fn set(
        &self,
        pool: &mut Pool,
        what: &str,
        set: impl FnOnce(&mut Backend, Duration),
    ) -> Result<Change, Refused> {
        let (service, place) = self.find(pool)?;
        let before = service.backends[place].clone();
        set(&mut service.backends[place], service.deregistration_delay);
        let after = &service.backends[place];
        let line = format!("{what} backend {} of {}", after.name(service), service.name);
        if *after == before {
            return Ok(Change::nothing(format!("{line}: nothing to change")));
        }
        Ok(Change::done(line))
    }
}
