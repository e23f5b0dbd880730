//! Whose connection is this?

use crate::identity::is_valid_name;

use super::refusal::{Refusal, RefusalReason};
use super::upgrade::UpgradeRequest;

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A user: 1-256 bytes of UTF-8.
    User(Box<str>),
    /// Nobody in particular; reached by topic or by connection id only.
    Anonymous,
}

/// Decides who a client is, from its request.
pub trait Identify: Send + Sync {
    /// Says who it is.
    ///
    /// # Errors
    ///
    /// A refusal for [`RefusalReason::Unauthorised`] or [`RefusalReason::BadUser`].
    fn identify(&self, request: &UpgradeRequest) -> Result<Identity, Refusal>;
}

/// Believes `?user=NAME`, where the operator says that it may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryUser {
    /// Otherwise a request that names a user is refused.
    pub trusted: bool,
}

impl Identify for QueryUser {
    fn identify(&self, request: &UpgradeRequest) -> Result<Identity, Refusal> {
        let mut users = request.params("user");
        let Some(user) = users.next() else {
            return Ok(Identity::Anonymous);
        };
        if !self.trusted {
            return Err(RefusalReason::Unauthorised.into());
        }
        // Twice could mean one user to a proxy in front and another one here.
        if users.next().is_some() {
            return Err(RefusalReason::BadUser.into());
        }
        match std::str::from_utf8(&user) {
            Ok(user) if is_valid_name(user) => Ok(Identity::User(user.into())),
            _ => Err(RefusalReason::BadUser.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::upgrade::{Progress, UpgradeConfig, parse, tests::request};

    fn identify(trusted: bool, query: &str) -> Result<Identity, RefusalReason> {
        let bytes = request(&format!("/ws{query}"), "");
        let Progress::Upgrade { request, .. } = parse(&UpgradeConfig::default(), &bytes) else {
            panic!("a valid request is an upgrade");
        };
        let identity = QueryUser { trusted }.identify(&request);
        identity.map_err(|refusal| refusal.reason)
    }

    fn user(name: &str) -> Result<Identity, RefusalReason> {
        Ok(Identity::User(name.into()))
    }

    #[test]
    fn a_named_user_is_decoded_and_believed_when_trusted() {
        assert_eq!(identify(true, "?user=alice"), user("alice"));
        assert_eq!(
            identify(true, "?room=1&user=J%C3%BCrgen%2B1&x"),
            user("Jürgen+1")
        );
        assert_eq!(identify(true, "?user=Anna+Maria"), user("Anna Maria"));
        assert_eq!(identify(true, "?%75ser=bob"), user("bob"));
    }

    #[test]
    fn without_a_user_a_client_is_anonymous() {
        assert_eq!(identify(true, ""), Ok(Identity::Anonymous));
        assert_eq!(
            identify(false, "?users=alice&User=alice"),
            Ok(Identity::Anonymous)
        );
    }

    #[test]
    fn an_untrusted_user_is_refused_and_not_made_anonymous() {
        assert_eq!(
            identify(false, "?user=alice"),
            Err(RefusalReason::Unauthorised)
        );
        assert_eq!(identify(false, "?user="), Err(RefusalReason::Unauthorised));
    }

    #[test]
    fn a_user_that_cannot_be_one_is_refused() {
        assert_eq!(identify(true, "?user="), Err(RefusalReason::BadUser));
        assert_eq!(identify(true, "?user"), Err(RefusalReason::BadUser));
        assert_eq!(identify(true, "?user=%ff"), Err(RefusalReason::BadUser));
        assert_eq!(
            identify(true, "?user=a&user=b"),
            Err(RefusalReason::BadUser)
        );
        let longest = "%41".repeat(256);
        assert_eq!(
            identify(true, &format!("?user={longest}")),
            user(&"A".repeat(256))
        );
        assert_eq!(
            identify(true, &format!("?user={longest}A")),
            Err(RefusalReason::BadUser)
        );
    }
}
