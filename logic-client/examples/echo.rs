//! Answers every message to the connection it came from: text with text, binary with binary.
//!
//! `cargo run -p logic-client --example echo -- --gateway 127.0.0.1:9000`

use std::time::Duration;

use logic_client::{Event, LogicClient};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = LogicClient::builder()
        .gateway(gateway())
        .service("echo")
        .receive_messages(true)
        .connect()
        .await?;
    let mut events = client.events().ok_or("events were taken")?;
    println!("echoing until ctrl-c");
    loop {
        tokio::select! {
            Some(event) = events.next() => if let Event::Message(message) = event {
                let answer = message.reply().payload(message.kind, message.payload);
                client.push(answer).await?;
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    let left = client.close(Duration::from_secs(5)).await;
    println!("{} answers were not sent", left.pushes.len());
    Ok(())
}

/// `--gateway ADDR`.
fn gateway() -> String {
    let mut args = std::env::args().skip_while(|arg| arg != "--gateway");
    args.nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned())
}
