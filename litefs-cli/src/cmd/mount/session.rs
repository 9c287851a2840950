//! One run of `litefs mount`, from the first step of the start to the last of the close.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;

use nix::sys::signal::Signal;

use super::super::{Failure, say};
use super::node::{Node, start_node};
use super::start::StartError;
use crate::config::Config;
use crate::config::validate::Command;
use crate::exec::{Exit, Launcher, Running};
use crate::fly::FlyMachine;
use crate::signals;

/// What can happen.
enum Event {
    Signal(Signal),
    /// The node is up, or can't be.
    Started(Box<Result<Node, StartError>>),
    /// The node is primary or connected to one.
    Ready,
    /// The process that runs has ended. There is never more than one.
    Exited(Exit),
}

/// Why the normal course ended early.
enum Stop {
    Signal,
    /// A command that ran to completion ended on a signal we forwarded.
    Code(u8),
    /// Two signals while the node was starting; it can't be closed.
    Abandoned,
    Failed(StartError),
}

/// A running `litefs mount`.
pub(super) struct Session {
    config: Config,
    commands: Vec<Command>,
    launcher: Launcher,
    /// Who is to be told the role.
    host: Option<FlyMachine>,
    skip_unmount: bool,
    events: Receiver<Event>,
    sender: Sender<Event>,
    node: Option<Node>,
    /// Commands that ended, but may have left others of their group behind.
    finished: Vec<Running>,
}

impl Session {
    /// Signals count from here on.
    pub(super) fn new(
        config: Config,
        commands: Vec<Command>,
        launcher: Launcher,
        host: Option<FlyMachine>,
        skip_unmount: bool,
    ) -> io::Result<Session> {
        let (sender, events) = mpsc::channel();
        signals::listen(sender.clone(), Event::Signal)?;
        let (node, finished) = (None, Vec::new());
        Ok(Session {
            config,
            commands,
            launcher,
            host,
            skip_unmount,
            events,
            sender,
            node,
            finished,
        })
    }

    /// Starts, waits, closes.
    pub(super) fn run(mut self) -> Result<ExitCode, Failure> {
        let ended = self.start().map(|app| self.wait(app));
        let outcome = match ended {
            Ok(code) | Err(Stop::Code(code)) => Ok(code),
            Err(Stop::Signal) => Ok(0),
            Err(Stop::Abandoned) => return Ok(ExitCode::FAILURE),
            Err(Stop::Failed(err)) if self.config.exit_on_error => Err(err),
            Err(Stop::Failed(err)) => {
                let hint = err.hint().unwrap_or_default();
                tracing::error!(hint, "cannot start, waiting for a signal: {err}");
                Ok(self.wait(None))
            }
        };
        let closed = self.close();
        let code = outcome?;
        closed?;
        Ok(ExitCode::from(code))
    }

    /// Brings up the node and runs the `exec` list; the result is the application, if there is one.
    fn start(&mut self) -> Result<Option<Running>, Stop> {
        self.start_node()?;
        self.join_cluster()?;
        if self.config.proxy.target.is_empty() {
            tracing::info!("no proxy target set, skipping proxy");
        }
        self.exec()
    }

    fn start_node(&mut self) -> Result<(), Stop> {
        let (config, skip_unmount) = (self.config.clone(), self.skip_unmount);
        let sender = self.sender.clone();
        thread::spawn(move || {
            let started = catch_unwind(AssertUnwindSafe(|| start_node(&config, skip_unmount)));
            // Nobody listens any more if the start was abandoned.
            let started = started.unwrap_or(Err(StartError::Panicked));
            let _ = sender.send(Event::Started(Box::new(started)));
        });
        let mut signalled = false;
        loop {
            match self.next() {
                Event::Started(started) => {
                    return match *started {
                        Ok(node) => {
                            if let Some(host) = self.host.take() {
                                node.tell_role(host);
                            }
                            self.node = Some(node);
                            if signalled { Err(Stop::Signal) } else { Ok(()) }
                        }
                        Err(_) if signalled => Err(Stop::Signal),
                        Err(err) => Err(Stop::Failed(err)),
                    };
                }
                Event::Signal(_) if signalled => {
                    tracing::warn!("second signal received, giving up the start");
                    return Err(Stop::Abandoned);
                }
                Event::Signal(_) => {
                    tracing::info!(
                        "signal received, litefs shutting down after this step of the start"
                    );
                    signalled = true;
                }
                Event::Ready | Event::Exited(_) => {}
            }
        }
    }

    fn join_cluster(&self) -> Result<(), Stop> {
        let Some(node) = &self.node else { return Ok(()) };
        if self.config.skip_sync {
            tracing::info!("skipping cluster sync, starting immediately");
            return Ok(());
        }
        tracing::info!("waiting to connect to cluster");
        let sender = self.sender.clone();
        node.on_ready(move || {
            let _ = sender.send(Event::Ready);
        });
        loop {
            match self.next() {
                Event::Ready => break,
                Event::Signal(_) => {
                    tracing::info!("signal received, litefs shutting down");
                    return Err(Stop::Signal);
                }
                Event::Started(_) | Event::Exited(_) => {}
            }
        }
        tracing::info!("connected to cluster, ready");
        self.promote();
        Ok(())
    }

    /// Has this node become the primary, if that is configured. Without success it goes on as it is.
    fn promote(&self) {
        let Some(node) = self.node.as_ref().filter(|_| self.config.lease.promote) else { return };
        if !node.is_candidate() {
            tracing::info!("node is not a candidate, skipping automatic promotion");
        } else if node.is_primary() {
            tracing::info!("node is already primary, skipping promotion");
        } else {
            tracing::info!("node is a candidate, automatically promoting to primary");
            if let Err(err) = node.promote() {
                tracing::error!("cannot promote: {err}");
            }
        }
    }

    /// All commands but the last run to completion, the last in the background.
    fn exec(&mut self) -> Result<Option<Running>, Stop> {
        let candidate = self.node.as_ref().is_some_and(Node::is_candidate);
        let commands = std::mem::take(&mut self.commands);
        let Some((last, first)) = commands.split_last() else { return Ok(None) };
        for command in first {
            self.check_signal()?;
            if self.wanted(command, candidate) {
                self.run_to_completion(command)?;
            }
        }
        self.check_signal()?;
        if !self.wanted(last, candidate) {
            return Ok(None);
        }
        tracing::info!("starting background subprocess: {}", shown(last));
        let app = self.launcher.spawn(&last.words, self.exit_event());
        app.map(Some).map_err(|err| Stop::Failed(StartError::Background(err)))
    }

    fn wanted(&self, command: &Command, candidate: bool) -> bool {
        let wanted = candidate || !command.if_candidate;
        if !wanted {
            let command = shown(command);
            tracing::info!("node is not a candidate, skipping command execution: {command}");
        }
        wanted
    }

    fn run_to_completion(&mut self, command: &Command) -> Result<(), Stop> {
        tracing::info!("executing command: {}", shown(command));
        let running = self
            .launcher
            .spawn(&command.words, self.exit_event())
            .map_err(|err| Stop::Failed(StartError::SyncSpawn(err)))?;
        let (exit, signalled) = self.await_exit(&running);
        // What it left running in the background may be meant for the application.
        self.finished.push(running);
        match exit {
            exit if signalled => Err(Stop::Code(code_after_signal(exit))),
            exit if exit.success() => Ok(()),
            exit => Err(Stop::Failed(StartError::SyncExit(exit))),
        }
    }

    /// Waits for the end; the result is the exit code.
    fn wait(&mut self, app: Option<Running>) -> u8 {
        say(format_args!("waiting for signal or subprocess to exit"));
        let Some(app) = app else {
            while !matches!(self.next(), Event::Signal(_)) {}
            tracing::info!("signal received, litefs shutting down");
            return 0;
        };
        let (exit, signalled) = self.await_exit(&app);
        match exit {
            Exit::Code(0) => tracing::info!("subprocess exited successfully, litefs shutting down"),
            Exit::Code(code) => {
                tracing::info!("subprocess exited with error code {code}, litefs shutting down");
            }
            Exit::Signal(_) => {
                tracing::info!(
                    "subprocess exited with error code -1, litefs shutting down ({exit})"
                );
            }
        }
        app.finish();
        if signalled { code_after_signal(exit) } else { code_of(exit) }
    }

    /// Waits for a process, passing a signal on to it; also says whether there was one.
    fn await_exit(&self, running: &Running) -> (Exit, bool) {
        let mut signalled = false;
        loop {
            match self.next() {
                Event::Exited(exit) => return (exit, signalled),
                Event::Signal(_) if signalled => {
                    tracing::warn!("second signal received, killing exec process");
                    running.kill();
                }
                Event::Signal(signal) => {
                    tracing::info!("sending signal to exec process");
                    running.signal(signal);
                    tracing::info!("waiting for exec process to close");
                    signalled = true;
                }
                Event::Started(_) | Event::Ready => {}
            }
        }
    }

    /// Ends all processes, then the node.
    fn close(self) -> Result<(), Failure> {
        drop(self.finished);
        let closed = self.node.map_or(Ok(()), Node::close);
        say(format_args!("litefs shut down complete"));
        Ok(closed?)
    }

    fn exit_event(&self) -> impl FnOnce(Exit) + Send + 'static {
        let sender = self.sender.clone();
        move |exit| {
            let _ = sender.send(Event::Exited(exit));
        }
    }

    fn next(&self) -> Event {
        self.events.recv().expect("this session holds a sender")
    }

    /// Obeys a signal that came between two commands.
    fn check_signal(&self) -> Result<(), Stop> {
        loop {
            match self.events.try_recv() {
                Ok(Event::Signal(_)) => {
                    tracing::info!("signal received, litefs shutting down");
                    return Err(Stop::Signal);
                }
                Ok(_) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }
}

/// `sh [-c …]`, as the original logs it.
fn shown(command: &Command) -> String {
    let (program, args) = command.words.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
    format!("{program} [{}]", args.join(" "))
}

/// The exit code is passed on; -1, which a killed process has, is 255.
fn code_of(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Exit::Signal(_) => u8::MAX,
    }
}

/// A process that ends by the signal it was sent did what it should.
fn code_after_signal(exit: Exit) -> u8 {
    match exit {
        Exit::Signal(_) => 0,
        exit => code_of(exit),
    }
}
