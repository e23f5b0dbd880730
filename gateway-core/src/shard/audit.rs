//! Looks at a shard from outside its rules: whether every bound holds. For simulators and tests; it costs a look at
//! every connection.

use super::Shard;

impl Shard {
    /// The first queue or table that holds more than its limit. There never should be one.
    #[must_use]
    pub fn over_limit(&self) -> Option<String> {
        let config = &self.gateway.config;
        let limits = &config.limits;
        let queued = self.metrics.directory_queue_bytes.get() as usize;
        let tables = [
            ("fan-outs", self.fanouts.len(), limits.max_fanouts),
            ("topics", self.topics.len(), limits.max_topics),
            ("sessions", self.sessions.len(), config.sessions.max),
            ("directory bytes", queued, config.directory.max_queue_bytes),
        ];
        let full = tables.into_iter().find(|(_, held, most)| held > most);
        let table = full.map(|(what, held, most)| format!("{held} {what}, {most} are allowed"));
        table.or_else(|| self.outbox_over_limit())
    }

    fn outbox_over_limit(&self) -> Option<String> {
        let limits = &self.gateway.config.outbox;
        self.conns.ids().find_map(|id| {
            // The last words of a connection that ends are exempt.
            let conn = self.conns.get(id).filter(|conn| conn.is_open())?;
            let (messages, bytes) = conn.outbox.load();
            // A message alone always fits: its size was checked against the payload limit.
            let fits =
                messages <= 1 || (messages <= limits.max_messages && bytes <= limits.max_bytes);
            (!fits).then(|| format!("{id:?} has {messages} messages, {bytes} bytes in its outbox"))
        })
    }
}
