//! `weir`: the daemon, the configuration check and the replay of captures.

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use weir::config::{Config, LogFormat, LogLevel, is_name};
use weir::replay::script::Script;
use weir::replay::{self, Plan};

/// A layer-4 load balancer that owns its NICs through DPDK.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    max_term_width = 100,
    after_help = "Example:\n  weir check --config /etc/weir/weir.toml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Balance traffic until SIGTERM or SIGINT.
    #[command(after_help = "Lines of the log go to standard error.\n\nExamples:\n  \
                            weir run --config /etc/weir/weir.toml\n  \
                            weir run --config /etc/weir/weir.toml --log-format json --log-level warn")]
    Run(RunArgs),
    /// Check a configuration and print it with all defaults filled in.
    #[command(
        after_help = "Exit code 2 and FILE:LINE:COLUMN on an error.\n\nExample:\n  \
                            weir check --config /etc/weir/weir.toml"
    )]
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run the balancer over captures instead of NICs, with their time stamps as the clock.
    #[command(
        after_help = "The same captures and configuration always give the same output.\n\n\
                            Example:\n  weir replay --config weir.toml --in wan=in.pcap --out \
                            out.pcap --json"
    )]
    Replay(ReplayArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The form of the log, text or json; goes before `[log] format`.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: error, warn, info or debug, and worse; goes before `[log] level`.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

#[derive(Debug, clap::Args)]
struct ReplayArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A capture (pcap or pcapng) and the port that its frames come in by, or the `kernel`
    /// interface that the kernel sends them by; repeatable.
    #[arg(long = "in", value_name = "PORT=FILE", required = true)]
    inputs: Vec<String>,
    /// Where frames that leave are written, of all ports or of one, or those for the kernel by its
    /// interface; repeatable.
    #[arg(long = "out", value_name = "[PORT=]FILE", required = true)]
    outputs: Vec<String>,
    /// Commands to carry out on the way: lines of `@SECONDS COMMAND`, seconds from the first
    /// frame, COMMAND as after `weirctl`.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Send health checks, too, and look for their answers in the captures; without it, every
    /// backend counts as up unless it is forced down.
    #[arg(long)]
    checks: bool,
    /// Print counters as one JSON object.
    #[arg(long)]
    json: bool,
}

/// The configuration, the script or the arguments are at fault.
const USAGE: u8 = 2;
/// Something failed on the way; a capture that cannot be read, too.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Check { config } => check(&config),
        Command::Replay(args) => replay(&args),
    };
    result.unwrap_or_else(|(code, message)| {
        replay::complain(&message);
        ExitCode::from(code)
    })
}

type Exit = Result<ExitCode, (u8, String)>;

fn load(path: &std::path::Path) -> Result<Arc<Config>, (u8, String)> {
    let config = Config::load(path).map_err(|error| (USAGE, error.to_string()))?;
    Ok(Arc::new(config))
}

/// What the operator should know, to standard error: `FILE:LINE:COLUMN: warning: WHAT`.
fn warn<'a>(config: &Config, warnings: impl Iterator<Item = &'a String>) {
    let file = config.path.display();
    for warning in warnings {
        let (place, what) = warning.split_once(": ").unwrap_or(("1:1", warning));
        replay::complain(&format!("{file}:{place}: warning: {what}"));
    }
}

fn check(path: &std::path::Path) -> Exit {
    let config = load(path)?;
    warn(&config, config.warnings.iter());
    print(&config.effective())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard output. Who reads no further has seen enough, which is no failure.
fn print(text: &str) -> Result<(), (u8, String)> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err((FAILED, format!("weir: cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "dpdk")]
fn run(args: &RunArgs) -> Exit {
    use weir::daemon::log;
    let mut config = match Config::load(&args.config) {
        Ok(config) => config,
        // Its [log] is not known; the place of the error begins the line, as in `weir check`.
        Err(error) if args.log_format != Some(LogFormat::Json) => {
            return Err((USAGE, error.to_string()));
        }
        Err(error) => {
            log::start(weir::config::Log {
                format: LogFormat::Json,
                ..weir::config::Log::default()
            });
            log::fail(error);
            return Ok(ExitCode::from(USAGE));
        }
    };
    config.log.format = args.log_format.unwrap_or(config.log.format);
    config.log.level = args.log_level.unwrap_or(config.log.level);
    log::start(config.log);
    for warning in &config.warnings {
        log::doubt(format_args!("{}:{warning}", args.config.display()));
    }
    if let Err(error) = weir::daemon::run(&Arc::new(config)) {
        log::fail(error);
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "dpdk"))]
fn run(_: &RunArgs) -> Exit {
    Err((
        FAILED,
        "this weir was built without DPDK; `check` and `replay` work".to_owned(),
    ))
}

fn replay(args: &ReplayArgs) -> Exit {
    let config = load(&args.config)?;
    // A replay is no instance: it makes no random key and no segment.
    let is_true_here = |warning: &&String| !warning.contains(": [instance] ");
    warn(&config, config.warnings.iter().filter(is_true_here));
    let (from_kernel, inputs): (Vec<_>, Vec<_>) = kernels(&config, &args.inputs);
    let inputs = inputs
        .into_iter()
        .map(|text| input(&config, text))
        .collect::<Result<_, _>>()?;
    let (to_kernel, outputs): (Vec<_>, Vec<_>) = kernels(&config, &args.outputs);
    let outputs = outputs
        .into_iter()
        .map(|text| port_and_file(&config, "--out", text))
        .collect::<Result<_, _>>()?;
    let script = match &args.script {
        None => Script::default(),
        Some(path) => Script::load(path).map_err(|error| (USAGE, error.to_string()))?,
    };
    let plan = Plan {
        config,
        inputs,
        from_kernel,
        outputs,
        to_kernel,
        script,
        checks: args.checks,
    };
    let outcome = replay::run(plan).map_err(|error| (FAILED, format!("weir: {error}")))?;
    if args.json {
        let text = serde_json::to_string(&outcome.report)
            .map_err(|error| (FAILED, format!("weir: {error}")))?;
        print(&format!("{text}\n"))?;
    } else {
        print(&outcome.report.to_string())?;
    }
    for damage in &outcome.damaged {
        replay::complain(&format!("weir: {damage}"));
    }
    let clean = outcome.refused == 0 && outcome.damaged.is_empty();
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

/// Those of `texts` that are `INTERFACE=FILE`, where a port has a way to the kernel by INTERFACE, as
/// the port's number and the file; and all others.
fn kernels<'a>(config: &Config, texts: &'a [String]) -> (Vec<(u16, PathBuf)>, Vec<&'a String>) {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for text in texts {
        let split = text.split_once('=');
        let kernel = split.filter(|(name, _)| config.port_number(name).is_none());
        match kernel.and_then(|(name, file)| Some((config.kernel_number(name)?, file.into()))) {
            Some(kernel) => named.push(kernel),
            None => others.push(text),
        }
    }
    (named, others)
}

/// The port of `PORT=FILE` and the file, or the file alone. What cannot be a port's name belongs to
/// the file's.
fn port_and_file(
    config: &Config,
    option: &str,
    text: &str,
) -> Result<(Option<u16>, PathBuf), (u8, String)> {
    let named = text.split_once('=').filter(|(name, _)| is_name(name));
    let Some((name, file)) = named else {
        return Ok((None, text.into()));
    };
    if let Some(port) = config.port_number(name) {
        return Ok((Some(port), file.into()));
    }
    let known: Vec<&str> = config.ports.iter().map(|port| port.name.as_str()).collect();
    Err((
        USAGE,
        format!(
            "{option} {text}: no port \"{name}\"; the configuration has {}",
            known.join(", ")
        ),
    ))
}

/// `PORT=FILE`; the port may be left out where there is only one.
fn input(config: &Config, text: &str) -> Result<(u16, PathBuf), (u8, String)> {
    match port_and_file(config, "--in", text)? {
        (Some(port), file) => Ok((port, file)),
        (None, file) if config.ports.len() == 1 => Ok((0, file)),
        _ => Err((
            USAGE,
            format!("--in {text}: PORT=FILE is accepted where there are several ports"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_help_of_every_command_ends_with_an_example_that_parses() {
        let root = Cli::command();
        let commands = std::iter::once(&root).chain(root.get_subcommands());
        for command in commands {
            let help = command.get_after_help();
            let help = help.map(ToString::to_string).unwrap_or_default();
            let (_, examples) = help.split_once("Example").expect("an example");
            let mut lines = examples.lines().map(str::trim);
            let lines = lines.by_ref().filter(|line| line.starts_with("weir "));
            let mut found = 0;
            for line in lines {
                found += 1;
                if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                    panic!("{line}: {error}");
                }
            }
            assert!(found > 0, "{}: {help:?}", command.get_name());
        }
    }
}
