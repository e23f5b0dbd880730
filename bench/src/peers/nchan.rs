//! nginx with nchan: a channel for each target, published to by HTTP.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::bail;
use futures_util::future::LocalBoxFuture;

use super::{
    Audience, Door, Peer, Pusher, Stage,
    foreign::{DESCRIPTORS, Folder, version},
    posts::Posts,
};
use crate::{debian, process::Process};

const PACKAGE: &str = "libnginx-mod-nchan nginx-light";
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
const CONFIGURATION: &str = include_str!("../../peers/nchan.conf");
const PATIENCE: Duration = Duration::from_secs(10);

/// The process, and where it listens.
pub struct Nchan {
    process: Process,
    program: PathBuf,
    address: SocketAddr,
    _folder: Folder,
    audience: Audience,
}

impl Nchan {
    /// Starts it.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(stage: &Stage) -> anyhow::Result<Self> {
        let audience = stage.audience.clone();
        if audience.members > 1 && !audience.is_everyone() {
            bail!("nchan knows users and everyone, not groups of users");
        }
        let program = debian::program("nginx", PACKAGE)?;
        let module = debian::file(MODULE, PACKAGE)?;
        let (folder, address) = (Folder::new("nchan")?, debian::free_address()?);
        let values = [
            ("module", &*module.to_string_lossy()),
            ("folder", &*folder.path().to_string_lossy()),
            ("address", &*address.to_string()),
            ("descriptors", DESCRIPTORS),
        ];
        let configuration = folder.fill("nginx.conf", CONFIGURATION, &values)?;
        let mut command = Command::new(&program);
        command.args(["-e", "stderr", "-p"]).arg(folder.path());
        command.arg("-c").arg(configuration);
        let mut process = Process::start(&mut command, &stage.places.server)?;
        process.listens(address, PATIENCE)?;
        Ok(Self {
            process,
            program,
            address,
            _folder: folder,
            audience,
        })
    }
}

impl Peer for Nchan {
    fn about(&self) -> String {
        format!("nchan, {}", version(&self.program, "-v"))
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn door(&self, user: &str) -> Door {
        let channel = match self.audience.is_everyone() {
            true => EVERYONE,
            false => user,
        };
        Door {
            address: self.address,
            target: format!("/ws/{channel}"),
            greeting: Vec::new(),
        }
    }

    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>> {
        Box::pin(async {
            let pusher: Box<dyn Pusher> = Box::new(Publisher {
                posts: Posts::connect(self.address).await?,
                audience: self.audience.clone(),
            });
            Ok(pusher)
        })
    }
}

/// The channel of all.
const EVERYONE: &str = "everyone";

struct Publisher {
    posts: Posts,
    audience: Audience,
}

impl Pusher for Publisher {
    fn push(&mut self, target: usize, payload: Vec<u8>) -> bool {
        let channel = match self.audience.names(target) {
            [user] => user,
            _ => EVERYONE,
        };
        self.posts.post(target, |output| {
            // This type makes the message a binary one.
            let head = format!(
                "POST /pub/{channel} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
                payload.len()
            );
            output.extend_from_slice(head.as_bytes());
            output.extend_from_slice(&payload);
        })
    }

    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.posts.flush())
    }

    fn finish(mut self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async move { self.posts.finish().await })
    }
}
