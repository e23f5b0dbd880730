//! Which driver: what the settings ask for, and what this build and host can do.

use std::env;

use super::{Driver, monoio, uring};
use crate::config::{self, DriverChoice};

/// Overrides `shards.driver = "auto"`: so that every test can be made to run on any driver.
pub const DRIVER_VARIABLE: &str = "RINGWAY_SHARDS_DRIVER";

/// What `auto` tries, the best by measurement first. Where none of them works, it takes epoll.
const PREFERRED: [DriverChoice; 2] = [DriverChoice::Uring, DriverChoice::Monoio];

/// The driver to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub driver: Driver,
    /// Why this one, for the log.
    pub why: String,
    /// What had to be done without: the reason of a warning.
    pub lacks: Option<String>,
}

/// Why there is no driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// One was asked for that this build or host cannot do.
    #[error(
        "shards.driver = \"{choice}\": {why}; allowed here: {}",
        allowed_here()
    )]
    NotHere {
        /// Which.
        choice: DriverChoice,
        /// What is missing.
        why: String,
    },
    /// [`DRIVER_VARIABLE`] makes no sense.
    #[error(
        "{DRIVER_VARIABLE} = {name:?}: there is no such driver; allowed here: {}",
        allowed_here()
    )]
    Variable {
        /// Its value.
        name: String,
    },
}

/// Finds the driver to be used: the one that is asked for, or the best there is.
///
/// # Errors
/// One was asked for that is not there, or [`DRIVER_VARIABLE`] makes no sense.
pub fn choose(config: &config::Shards) -> Result<Chosen, DriverError> {
    let variable = env::var(DRIVER_VARIABLE).unwrap_or_default();
    match wanted(config.driver, &variable)? {
        DriverChoice::Auto => Ok(best()),
        DriverChoice::Monoio => Ok(with_fallback()),
        choice => {
            let driver = find(choice).map_err(|why| DriverError::NotHere { choice, why })?;
            Ok(Chosen::new(driver, format!("shards.driver = \"{choice}\"")))
        }
    }
}

/// What the settings ask for; the environment decides where they leave it open.
fn wanted(config: DriverChoice, variable: &str) -> Result<DriverChoice, DriverError> {
    match (config, variable) {
        (DriverChoice::Auto, "") => Ok(DriverChoice::Auto),
        (DriverChoice::Auto, name) => {
            DriverChoice::named(name).ok_or_else(|| DriverError::Variable {
                name: name.to_owned(),
            })
        }
        (named, _) => Ok(named),
    }
}

/// The driver, or what this build or host lacks for it.
fn find(choice: DriverChoice) -> Result<Driver, String> {
    match choice {
        DriverChoice::Auto => Ok(best().driver),
        DriverChoice::Uring => match uring::probe() {
            Ok(()) => Ok(Driver::Uring),
            Err(error) => Err(error.to_string()),
        },
        DriverChoice::Monoio => match monoio::probe() {
            Ok(flags) => Ok(Driver::MonoioRing(flags)),
            Err(error) => Err(format!("io_uring is not available here: {error}")),
        },
        DriverChoice::Epoll => Ok(Driver::MonoioEpoll),
        DriverChoice::Glommio => glommio(),
    }
}

#[cfg(feature = "glommio")]
fn glommio() -> Result<Driver, String> {
    match super::glommio::probe() {
        Ok(()) => Ok(Driver::Glommio),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(not(feature = "glommio"))]
fn glommio() -> Result<Driver, String> {
    Err("this build does not have it: one with `--features gateway-core/glommio` does".to_owned())
}

/// The first of [`PREFERRED`] that works here, or epoll.
fn best() -> Chosen {
    let mut lacks = Vec::new();
    for choice in PREFERRED {
        match find(choice) {
            Ok(driver) if lacks.is_empty() => {
                return Chosen::new(driver, "auto: the best by measurement");
            }
            Ok(driver) => {
                return Chosen {
                    lacks: Some(lacks.join("; ")),
                    ..Chosen::new(driver, "auto: the best that works here")
                };
            }
            Err(why) => lacks.push(format!("{choice}: {why}")),
        }
    }
    Chosen {
        lacks: Some(lacks.join("; ")),
        ..Chosen::new(Driver::MonoioEpoll, "auto: nothing better works here")
    }
}

/// monoio, on epoll if need be.
fn with_fallback() -> Chosen {
    let why = "shards.driver = \"monoio\"";
    match find(DriverChoice::Monoio) {
        Ok(driver) => Chosen::new(driver, why),
        Err(lacks) => Chosen {
            lacks: Some(lacks),
            ..Chosen::new(Driver::MonoioEpoll, why)
        },
    }
}

/// The names that would do here.
fn allowed_here() -> String {
    let works = |choice: &DriverChoice| match choice {
        // It falls back.
        DriverChoice::Monoio => true,
        choice => find(*choice).is_ok(),
    };
    let names = DriverChoice::ALL.into_iter().filter(works);
    names.map(DriverChoice::name).collect::<Vec<_>>().join(", ")
}

impl Chosen {
    fn new(driver: Driver, why: impl Into<String>) -> Self {
        Self {
            driver,
            why: why.into(),
            lacks: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_where_settings_do_not() {
        let wanted = |config, variable| wanted(config, variable).unwrap();
        assert_eq!(wanted(DriverChoice::Auto, ""), DriverChoice::Auto);
        assert_eq!(wanted(DriverChoice::Auto, "epoll"), DriverChoice::Epoll);
        assert_eq!(wanted(DriverChoice::Monoio, "epoll"), DriverChoice::Monoio);
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused_with_those_that_do() {
        let error = wanted(DriverChoice::Auto, "kqueue")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("RINGWAY_SHARDS_DRIVER = \"kqueue\""),
            "{error}"
        );
        assert!(
            error.contains("auto, ") && error.contains("epoll"),
            "{error}"
        );
    }

    #[test]
    fn what_this_build_or_host_lacks_is_refused_with_the_reason() {
        let missing = DriverChoice::ALL
            .into_iter()
            .filter(|choice| find(*choice).is_err());
        for choice in missing.filter(|choice| *choice != DriverChoice::Monoio) {
            let shards = config::Shards {
                driver: choice,
                ..Default::default()
            };
            let error = choose(&shards).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("shards.driver = \"{choice}\": ")),
                "{error}"
            );
            let (_, allowed) = error.split_once("allowed here: ").unwrap();
            assert!(
                !allowed.contains(choice.name()) && allowed.contains("epoll"),
                "{error}"
            );
        }
    }

    // There is always a driver; and whoever gets less than the best is told why.
    #[test]
    fn auto_takes_the_first_that_works() {
        let chosen = best();
        assert!(chosen.why.starts_with("auto: "), "{}", chosen.why);
        let first = PREFERRED.into_iter().find_map(|choice| find(choice).ok());
        assert_eq!(chosen.driver, first.unwrap_or(Driver::MonoioEpoll));
        assert_eq!(chosen.lacks.is_none(), find(PREFERRED[0]).is_ok());
    }
}
