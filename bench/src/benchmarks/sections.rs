//! What is measured for the report, and how.

/// One command line of `ringway-bench`.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Short, and part of file names.
    pub name: &'static str,
    /// Without `--json`.
    pub arguments: &'static str,
}

/// In the order of the page; those [on demand](ON_DEMAND) come last.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "unicast-100",
        arguments: "unicast --connections 100 --seconds 1 --rounds 5 --against tonic,ringway-plain,limit,limit-joined",
    },
    Section {
        name: "unicast-100-two-loads",
        arguments: "unicast --connections 100 --seconds 1 --rounds 5 --load-processes 2 --against tonic,ringway-plain",
    },
    Section {
        name: "unicast-1000",
        arguments: "unicast --connections 1000 --seconds 1 --rounds 9 --against tonic,ringway-plain,limit,limit-joined,ringway-monoio",
    },
    Section {
        name: "unicast-4000",
        arguments: "unicast --connections 4000 --seconds 1 --rounds 5 --against tonic,limit,limit-joined",
    },
    Section {
        name: "unicast-10000",
        arguments: "unicast --connections 10000 --seconds 1 --rounds 7 --against tonic,ringway-plain,limit,ringway-monoio",
    },
    Section {
        name: "unicast-1200B",
        arguments: "unicast --connections 1000 --payload 1200 --seconds 1 --rounds 7 --against tonic,limit,limit-joined,ringway-monoio",
    },
    Section {
        name: "multicast",
        arguments: "multicast --connections 1000 --members 100 --seconds 1 --rounds 5 --against tonic,limit",
    },
    Section {
        name: "broadcast",
        arguments: "broadcast --connections 10000 --seconds 1 --rounds 7 --against tonic,limit,ringway-monoio",
    },
    Section {
        name: "latency-5000",
        arguments: "latency --connections 1000 --rate 5000 --seconds 2 --rounds 5 --against tonic,ringway-plain,ringway-monoio",
    },
    Section {
        name: "latency-20000",
        arguments: "latency --connections 1000 --rate 20000 --seconds 0.5 --rounds 41 --against tonic,ringway-plain,ringway-monoio",
    },
    Section {
        name: "latency-50000",
        arguments: "latency --connections 1000 --rate 50000 --seconds 2 --rounds 5 --against tonic,ringway-plain,ringway-monoio",
    },
    Section {
        name: "upstream",
        arguments: "upstream --connections 1000 --seconds 2 --rounds 5",
    },
    Section {
        name: "upstream-two-loads",
        arguments: "upstream --connections 1000 --seconds 2 --rounds 5 --load-processes 2",
    },
    Section {
        name: "idle",
        arguments: "idle --connections 10000 --rounds 3 --against tonic,ringway-monoio,ringway-epoll",
    },
    Section {
        name: "connect",
        arguments: "connect --connections 10000 --batches 2 --rounds 5 --against tonic,limit-handshakes,ringway-monoio",
    },
    Section {
        name: "connect-two-loads",
        arguments: "connect --connections 10000 --batches 2 --rounds 5 --load-processes 2 --against tonic",
    },
    Section {
        name: "reconnect-storm",
        arguments: "reconnect-storm --connections 100000 --rounds 3",
    },
    Section {
        name: "crossing",
        arguments: "crossing --connections 1000 --seconds 1 --rounds 7",
    },
    Section {
        name: "scaling",
        arguments: "scaling --connections 1000 --seconds 1 --rounds 7",
    },
];

/// They need servers that are not ours, from Debian's packages: run when they are asked for.
pub const ON_DEMAND: &[Section] = &[
    Section {
        name: "other-servers",
        arguments: "unicast --connections 1000 --seconds 1 --rounds 3 --against nchan,nats,pushpin",
    },
    Section {
        name: "adr-natural",
        arguments: "adr --messages 10000 --in-flight natural --rounds 5 --ways rest,rest-close,unary,stream,client,queue",
    },
    Section {
        name: "adr-10",
        arguments: "adr --messages 10000 --in-flight 10 --rounds 5 --ways rest,rest-close,unary,stream,client,queue",
    },
    Section {
        name: "adr-60",
        arguments: "adr --messages 10000 --in-flight 60 --rounds 5 --ways rest,rest-close,unary,stream,client,queue",
    },
];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Section> {
    SECTIONS.iter().chain(ON_DEMAND)
}

impl Section {
    /// The same in small: a few hundred connections, a part of a second or some thousand messages, once.
    #[must_use]
    pub fn quick(&self) -> String {
        let mut words = self.arguments.split(' ');
        let mut quick = Vec::new();
        while let Some(word) = words.next() {
            quick.push(word.to_owned());
            let small = match word {
                "--connections" => 200.0,
                "--members" => 20.0,
                "--seconds" => 0.2,
                "--rounds" | "--batches" => 1.0,
                "--rate" | "--messages" => 2_000.0,
                _ => continue,
            };
            let value = words.next().and_then(|value| value.parse::<f64>().ok());
            quick.push(value.map_or(small, |value| value.min(small)).to_string());
        }
        quick.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_taken_once() {
        let names: BTreeSet<_> = all().map(|section| section.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn quick_ones_are_small_and_measure_the_same() {
        let quick = Section {
            name: "",
            arguments: "latency --connections 1000 --rate 50000 --seconds 3 --rounds 5 --against tonic",
        };
        assert_eq!(
            quick.quick(),
            "latency --connections 200 --rate 2000 --seconds 0.2 --rounds 1 --against tonic"
        );
    }
}
