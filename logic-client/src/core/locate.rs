//! Which streams a command goes to, when it is known where users are.
//!
//! A push for a user, and a `Disconnect`, go to the gateways where the user is known to be, as far as
//! their directory is complete. Whoever is on none of them may be on any gateway whose directory is
//! not complete, and not only where it was last: while that one is away, its users go to others. If
//! there is none, nowhere it is. What was for a gateway that came back goes there, too, until that one
//! has told who is there. Where a directory had no room for all, everybody may be, those
//! included who are known elsewhere. All other commands go where they go without a directory: a
//! subscription of a user is for connections to come, too.

use std::collections::BTreeMap;

use gateway_proto::v1::Users;
use gateway_proto::v1::logic_frame::Body;

use crate::core::directory::Directory;
use crate::core::router::{GatewayId, Paths, Route, Router, Whom, whom};

/// Where a command goes.
#[derive(Debug, PartialEq)]
pub(crate) struct Located<'a, S> {
    pub(crate) paths: Paths<'a, S>,
    /// Users that are nowhere.
    pub(crate) nowhere: u64,
}

impl<S> Router<S> {
    /// [`Router::paths`] with a directory. `back`: a gateway that the command was for, which came back and may not have
    /// told yet who is there.
    pub(crate) fn located(
        &self,
        body: &Body,
        directory: &Directory,
        back: Option<GatewayId>,
    ) -> Located<'_, S> {
        let whom = is_located(body).then(|| whom(body));
        match whom {
            Some(Whom::User(user)) => {
                let mut complete = directory.find(user).filter(|found| found.complete);
                // The usual case: one look-up, and no allocation.
                if let Some(only) = complete.next().filter(|_| complete.next().is_none())
                    && !directory.any_cut()
                    && back.is_none()
                    && let Some(route) = self.at(only.gateway)
                {
                    let paths = route.paths(body, self.limits());
                    return Located { paths, nowhere: 0 };
                }
                let mut gateways = self.whereabouts(user, directory, back).into_iter();
                let paths = match (gateways.next(), gateways.next()) {
                    (None, _) => Paths::None,
                    (Some(only), None) => self
                        .at(only)
                        .map_or(Paths::None, |route| route.paths(body, self.limits())),
                    (Some(first), Some(second)) => {
                        let all = [first, second].into_iter().chain(gateways);
                        let routes = all.filter_map(|gateway| self.at(gateway));
                        let paths = routes.map(|route| route.paths(body, self.limits()));
                        Paths::Many(paths.flat_map(|paths| paths.into_parts(body)).collect())
                    }
                };
                let nowhere = u64::from(matches!(paths, Paths::None));
                Located { paths, nowhere }
            }
            Some(Whom::Users(users)) => self.list(body, users, directory, back),
            _ => {
                let paths = self.paths(body);
                let nowhere = u64::from(matches!(paths, Paths::None));
                Located { paths, nowhere }
            }
        }
    }

    /// A list of users, in parts for the gateways they are on.
    fn list(
        &self,
        body: &Body,
        users: &Users,
        directory: &Directory,
        back: Option<GatewayId>,
    ) -> Located<'_, S> {
        let mut shares: BTreeMap<u32, Users> = BTreeMap::new();
        let mut nowhere = 0;
        for user in &users.user_ids {
            let gateways = self.whereabouts(user, directory, back);
            nowhere += u64::from(gateways.is_empty());
            for gateway in gateways {
                let share = shares.entry(gateway).or_default();
                share.user_ids.push(user.clone());
            }
        }
        let mut parts = Vec::new();
        for (gateway, users) in &shares {
            if let Some(route) = self.at(*gateway) {
                parts.extend(route.parts(body, users, self.limits()).into_parts(body));
            }
        }
        let paths = match parts.is_empty() {
            true => Paths::None,
            false => Paths::Many(parts),
        };
        Located { paths, nowhere }
    }

    /// The gateways that a message for a user goes to, in the order of the routes.
    fn whereabouts(&self, user: &str, directory: &Directory, back: Option<GatewayId>) -> Vec<u32> {
        let complete = directory.find(user).filter(|found| found.complete);
        let mut gateways: Vec<u32> = complete.map(|found| found.gateway).collect();
        if gateways.is_empty() {
            let all = self.routes().map(|(gateway, _)| gateway.0);
            gateways.extend(all.filter(|gateway| !directory.knows(*gateway, user)));
        }
        if directory.any_cut() {
            let all = self.routes().map(|(gateway, _)| gateway.0);
            gateways.extend(all.filter(|gateway| directory.is_cut(*gateway, user)));
        }
        gateways.extend(
            back.map(|gateway| gateway.0)
                .filter(|gateway| !directory.knows(*gateway, user)),
        );
        gateways.sort_unstable();
        gateways.dedup();
        gateways
    }

    fn at(&self, gateway: u32) -> Option<&Route<S>> {
        self.route(GatewayId(gateway))
    }
}

/// Whether a command goes where users are known to be.
pub(crate) fn is_located(body: &Body) -> bool {
    let whom = whom(body);
    match body {
        Body::Push(_) => matches!(whom, Whom::User(_) | Whom::Users(_)),
        Body::Disconnect(_) => matches!(whom, Whom::User(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
