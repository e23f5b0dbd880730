//! The flags that set settings, and where the others come from.

use std::{env, fs, path::Path};

use clap::Args;

use crate::config::{Config, ConfigError, Loader, Origins};

/// Read when neither `--config` nor `RINGWAY_CONFIG` names a file: the first that exists.
const USUAL_FILES: [&str; 2] = ["ringway.toml", "/etc/ringway/ringway.toml"];

/// Settings come from a file, from the environment (RINGWAY_SECTION_KEY) and from flags: the later wins.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Settings (all: ringway config)")]
pub(super) struct Settings {
    /// Settings file [default: ./ringway.toml, else /etc/ringway/ringway.toml, if there is one].
    #[arg(long, value_name = "FILE", env = "RINGWAY_CONFIG")]
    config: Option<String>,
    /// How many shards; 0: as many as there are cores [shards.count].
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Where clients connect [ws.listen].
    #[arg(long, value_name = "ADDRESS")]
    ws: Option<String>,
    /// The common gRPC port; shard k listens k + 1 above it [grpc.listen].
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<String>,
    /// Health and metrics [admin.listen].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// What moves the bytes: auto, uring, monoio, epoll or glommio [shards.driver].
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// Allow gRPC and admin beyond loopback, and trust ?user= there, with nobody authenticated [gateway.insecure].
    #[arg(long)]
    insecure: bool,
    /// Any setting, for example --set outbox.max_bytes=4194304; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

/// Why there are no settings to go by.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    #[error("{path}: {error}")]
    Unreadable { path: String, error: std::io::Error },
    #[error(transparent)]
    Refused(#[from] ConfigError),
}

impl Settings {
    /// What holds, and where it comes from.
    pub(super) fn load(&self) -> Result<(Config, Origins), SettingsError> {
        let mut loader = Loader::default();
        let usual = || {
            USUAL_FILES
                .into_iter()
                .find(|file| Path::new(file).exists())
        };
        let named = self.config.as_deref().filter(|path| !path.is_empty());
        if let Some(path) = named.or_else(usual) {
            let text = fs::read_to_string(path).map_err(|error| SettingsError::Unreadable {
                path: path.to_owned(),
                error,
            })?;
            loader.file(path, &text)?;
        }
        loader.environment(env::vars_os().map(|(name, value)| {
            let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
            (text(name), text(value))
        }))?;
        self.flags(&mut loader)?;
        Ok(loader.finish()?)
    }

    fn flags(&self, loader: &mut Loader) -> Result<(), ConfigError> {
        for (key, value) in &self.set {
            loader.flag("--set", key, value)?;
        }
        let insecure = self.insecure.then(|| "true".to_owned());
        for (flag, key, value) in [
            ("--shards", "shards.count", &self.shards),
            ("--ws", "ws.listen", &self.ws),
            ("--grpc", "grpc.listen", &self.grpc),
            ("--admin", "admin.listen", &self.admin),
            ("--driver", "shards.driver", &self.driver),
            ("--insecure", "gateway.insecure", &insecure),
        ] {
            if let Some(value) = value {
                loader.flag(flag, key, value)?;
            }
        }
        Ok(())
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}
