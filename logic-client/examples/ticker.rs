//! Prices for everyone, ten times a second. Each has a conflation key, so a slow client skips
//! prices that are out of date instead of falling behind; a price is worth sending for a second.
//!
//! `cargo run -p logic-client --example ticker -- --gateway 127.0.0.1:9000`

use std::time::Duration;

use logic_client::{LogicClient, Priority, Push, TryPushError};

const SYMBOLS: [&str; 4] = ["ACME", "BOLT", "CORK", "DUNE"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = LogicClient::builder().gateway(gateway()).connect().await?;
    let mut prices = [10_000_i64; SYMBOLS.len()];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    println!("ticking until ctrl-c");
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = tokio::signal::ctrl_c() => break,
        }
        for (symbol, price) in SYMBOLS.iter().zip(&mut prices) {
            *price = (*price + step(&mut random)).max(1);
            let cents = *price % 100;
            let text = format!(
                r#"{{"symbol":"{symbol}","price":{}.{cents:02}}}"#,
                *price / 100
            );
            let push = Push::everyone()
                .text(text)
                .conflate(*symbol)
                .ttl(Duration::from_secs(1))
                .priority(Priority::Low);
            match client.try_push(push) {
                // The next price is more use than this one.
                Ok(()) | Err(TryPushError::Full(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    client.close(Duration::from_secs(1)).await;
    Ok(())
}

/// A step of -50 to 50 cents (xorshift64).
fn step(random: &mut u64) -> i64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random % 101) as i64 - 50
}

/// `--gateway ADDR`.
fn gateway() -> String {
    let mut args = std::env::args().skip_while(|arg| arg != "--gateway");
    args.nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned())
}
