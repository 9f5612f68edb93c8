//! `service …`.

use std::net::IpAddr;

use clap::{Args, Subcommand};

use super::health::HealthArgs;
use super::lifetime::LifetimeArgs;
use super::quic::QuicOption;
use super::steering::SteeringArgs;
use super::tunnel::TunnelArgs;
use super::{Change, Endpoint, Refused, service_mut, unknown_service};
use crate::model::ClientAddress;
use crate::model::{
    Backend, DEFAULT_TABLE_SIZE, Forwarding, Ping, Pool, PortMatch, Protocol, Service, Vip,
};

/// A command about services.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ServiceCommand {
    /// List all services
    #[command(after_help = "Example:\n  weirctl service list")]
    List,
    /// Show one service with its backends
    #[command(after_help = "Example:\n  weirctl service show web")]
    Show {
        /// The service
        name: String,
    },
    /// Add a service
    Add(Box<AddService>),
    /// Remove a service with its backends
    #[command(after_help = "Example:\n  weirctl service remove web")]
    Remove {
        /// The service
        name: String,
    },
}

/// `service add NAME …`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Example:\n  weirctl service add web --vip 198.51.100.10 --port 80 \
--protocol tcp --forwarding nat --backend 10.0.0.11:8080 --health http --path /healthz"
)]
pub struct AddService {
    /// The new service's name
    pub name: String,
    /// The address that clients use, or a prefix of addresses
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    pub vip: Vip,
    /// The port that clients use, a range such as 8000-8100, or "any"
    #[arg(long)]
    pub port: PortMatch,
    /// tcp, udp, quic or any
    #[arg(long)]
    pub protocol: Protocol,
    /// nat, full-nat, dsr-l2, dsr-ipip, dsr-gue, dsr-gre, dsr-geneve or dsr-dscp
    #[arg(long, value_name = "MODE")]
    pub forwarding: Forwarding,
    /// How backends are chosen
    #[command(flatten)]
    pub steering: SteeringArgs,
    /// Entries of the Maglev table; a prime
    #[arg(long, value_name = "PRIME", default_value_t = DEFAULT_TABLE_SIZE)]
    pub table_size: u32,
    /// What becomes of pings to the VIP: answer, forward or drop
    #[arg(long, default_value_t = Ping::Answer)]
    pub ping: Ping,
    /// Settings of the mode
    #[command(flatten)]
    pub tunnel: TunnelArgs,
    /// full-nat: an address that backends see; may be repeated, or a list with commas
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub snat_pool: Vec<IpAddr>,
    /// full-nat: how backends learn the client's address: none, proxy-v2 or toa
    #[arg(long, value_name = "HOW", default_value_t = ClientAddress::None)]
    pub client_address: ClientAddress,
    /// How backends are checked
    #[command(flatten)]
    pub health: HealthArgs,
    /// How long things last
    #[command(flatten)]
    pub lifetime: LifetimeArgs,
    /// quic: a configuration of connection IDs: rotation=N,server_id_length=N,nonce_length=N,key=HEX;
    /// may be repeated
    #[arg(
        long,
        value_name = "CONFIG",
        long_help = "quic: a configuration of connection IDs, such as \
rotation=0,server_id_length=8,nonce_length=8,key=8f95f09245765f80256934e50c66207f; plaintext without \
a key; may be repeated. Other users of this machine see keys among its processes: `apply` reads them \
from a file"
    )]
    pub quic_config: Vec<QuicOption>,
    /// A backend to begin with; may be repeated
    #[arg(long = "backend", value_name = "ADDRESS[:PORT]")]
    pub backends: Vec<Endpoint>,
}

impl ServiceCommand {
    pub(super) fn apply_to(&self, pool: &mut Pool) -> Result<Change, Refused> {
        match self {
            Self::List => Ok(Change::default()),
            Self::Show { name } => match pool.service(name) {
                Some(_) => Ok(Change::default()),
                None => Err(unknown_service(pool, name)),
            },
            Self::Add(add) => add.apply_to(pool),
            Self::Remove { name } => {
                let backends = service_mut(pool, name)?.backends.len();
                pool.services.retain(|service| service.name != *name);
                let plural = if backends == 1 { "" } else { "s" };
                Ok(Change::done(format!(
                    "removed service {name} with {backends} backend{plural}"
                )))
            }
        }
    }

    pub(super) const fn is_read_only(&self) -> bool {
        matches!(self, Self::List | Self::Show { .. })
    }
}

impl AddService {
    fn apply_to(&self, pool: &mut Pool) -> Result<Change, Refused> {
        if pool.service(&self.name).is_some() {
            return Err(Refused::Exists {
                what: format!("service \"{}\"", self.name),
                hint: "remove it first, or change it with \"backend …\" or \"apply\"".to_owned(),
            });
        }
        let Self {
            name,
            vip,
            port,
            protocol,
            forwarding,
            ..
        } = self;
        let mut service = Service::new(name, *vip, *port, *protocol, *forwarding);
        service.scheduler = self.steering.scheduler;
        service.steering = self.steering.settings(*vip);
        service.table_size = self.table_size;
        service.ping = self.ping;
        service.tunnel = self.tunnel.settings()?;
        service.snat_pool.clone_from(&self.snat_pool);
        service.client_address = self.client_address;
        service.health = self.health.settings();
        self.lifetime.set(&mut service);
        service.quic = self.quic_config.iter().map(|option| option.0).collect();
        for endpoint in &self.backends {
            let port = endpoint.port_in(&service).map_err(Refused::Invalid)?;
            service.backends.push(Backend::new(endpoint.address, port));
        }
        let line = format!(
            "added service {name}: {}/{protocol}, {forwarding}, {} backend{}",
            service.endpoint(),
            service.backends.len(),
            if service.backends.len() == 1 { "" } else { "s" }
        );
        pool.services.push(service);
        Ok(Change::done(line))
    }
}
