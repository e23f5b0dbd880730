//! What peers from Debian's packages have in common: a folder of their own, filled-in configurations.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use anyhow::Context;

/// Descriptors that a peer is told it may use.
pub(super) const DESCRIPTORS: &str = "100000";

/// A folder for one run of a peer; it goes when this is dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (id, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(format!("ringway-bench-{id}-{name}-{number}"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes `template` to the file `name`, with every `{{key}}` replaced by its value.
    pub(super) fn fill(
        &self,
        name: &str,
        template: &str,
        values: &[(&str, &str)],
    ) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        let text = values
            .iter()
            .fold(template.to_owned(), |text, (key, value)| {
                text.replace(&format!("{{{{{key}}}}}"), value)
            });
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// What its programs have logged here, for whoever wonders why they do not work.
    pub(super) fn logs(&self) -> String {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let files = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        files.fold("its logs:".to_owned(), |logs, file| {
            let text = fs::read_to_string(file.path()).unwrap_or_else(|error| error.to_string());
            format!("{logs}\n{}:\n{text}", file.file_name().to_string_lossy())
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left lies in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a program says of its version, in one line.
pub(super) fn version(program: &Path, flag: &str) -> String {
    let output = std::process::Command::new(program).arg(flag).output();
    let text = output.map_or_else(
        |error| error.to_string(),
        |output| {
            let told = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&told).into_owned()
        },
    );
    text.lines()
        .next()
        .unwrap_or("of unknown version")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_logged_is_told_by_program() {
        let folder = Folder::new("test").unwrap();
        fs::write(folder.path().join("proxy.log"), "no route\n").unwrap();
        fs::write(folder.path().join("routes"), "secret").unwrap();
        assert_eq!(folder.logs(), "its logs:\nproxy.log:\nno route\n");
    }

    #[test]
    fn a_configuration_is_filled_in_and_goes_with_its_folder() {
        let folder = Folder::new("test").unwrap();
        let path = folder.path().to_owned();
        let file = folder.fill("a.conf", "listen {{port}}; log {port};", &[("port", "7")]);
        assert_eq!(
            fs::read_to_string(file.unwrap()).unwrap(),
            "listen 7; log {port};"
        );
        drop(folder);
        assert!(!path.exists());
    }
}
