//! `litefs-example-axum DIR APP NODE [PRIMARY-APP PRIMARY-NODE]`: see the README beside it.

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use litefs_example_axum::node::Node;
use litefs_example_axum::notes::Notes;
use litefs_lease::PrimaryInfo;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = match args.as_slice() {
        [dir, app, node] => run(Path::new(dir), app, node, None).await,
        [dir, app, node, primary_app, primary_node] => {
            let primary = PrimaryInfo {
                hostname: (*primary_app).into(),
                advertise_url: format!("http://{primary_node}"),
            };
            run(Path::new(dir), app, node, Some(primary)).await
        }
        _ => {
            eprintln!("usage: litefs-example-axum DIR APP NODE [PRIMARY-APP PRIMARY-NODE]");
            eprintln!("APP and NODE are addresses to listen at: 127.0.0.1:8001");
            return ExitCode::from(2);
        }
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

async fn run(
    dir: &Path,
    app: &str,
    node: &str,
    primary: Option<PrimaryInfo>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    // From here on a signal doesn't end the process, which would leave the mount behind.
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let app = tokio::net::TcpListener::bind(app).await?;
    let api = TcpListener::bind(node)?;
    let (app_addr, api_addr) = (app.local_addr()?, api.local_addr()?);

    let is_primary = primary.is_none();
    let primary = primary.unwrap_or_else(|| PrimaryInfo {
        hostname: app_addr.to_string(),
        advertise_url: format!("http://{api_addr}"),
    });
    let node = Node::start(dir, api, is_primary, primary).await?;
    let notes = Notes::new(&node);
    let served = async {
        if is_primary {
            node.ready().wait().await?;
            notes.create().await?;
        }
        println!("app {app_addr} node {api_addr}");
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        axum::serve(app, notes.router()).with_graceful_shutdown(stop).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    let served = served.await;
    notes.close();
    node.close().await?;
    served
}
