//! What a job of the application's queue of refresh requests asks for, and in which words it is answered.
//! Pure.

use serde_json::Value;

use super::identity::AccountId;

/// The name of a job that asks for one account.
const ONE: &str = "refresh-account-tokens";

/// The name of a job that asks for all of them.
const ALL: &str = "refresh-all-tokens";

/// The platform whose accounts are ours.
const OURS: &str = "bluesky";

/// The job by which the application, and its schedules, ask for all accounts.
pub fn is_for_all(name: &str) -> bool {
    name == ALL
}

/// What a job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A refresh of all accounts, ours and those of other platforms.
    All,
    /// A refresh of one account. Whose platform it is, its document says.
    One(AccountId),
    /// Something for another worker: an account of another platform, or a job of another kind.
    Others,
    /// A refresh of something that no account's id can be.
    Nobody,
    /// Nothing that anybody could do, for this reason.
    Nonsense(&'static str),
}

impl Asked {
    /// Understands a job by its name and data; `None`: the data is larger than a request can be, and was not
    /// read.
    pub fn read(name: &str, data: Option<&[u8]>) -> Self {
        let Some(data) = data else { return Self::Others };
        let Ok(data) = serde_json::from_slice::<Value>(data) else {
            return Self::Nonsense("its data is not JSON");
        };
        match name {
            ALL => Self::All,
            ONE => Self::one(&data),
            _ => Self::Others,
        }
    }

    fn one(data: &Value) -> Self {
        if !data.is_object() {
            return Self::Nonsense("its data is not a JSON object");
        }
        match data.get("platform") {
            None | Some(Value::Null) => {}
            Some(Value::String(platform)) if platform == OURS => {}
            Some(Value::String(_another)) => return Self::Others,
            Some(_no_text) => return Self::Nonsense("its platform is not a text"),
        }
        match data.get("accountId") {
            Some(Value::String(id)) => id.parse().map_or(Self::Nobody, Self::One),
            Some(_no_text) => Self::Nonsense("its accountId is not a text"),
            None => Self::Nonsense("it names no accountId"),
        }
    }
}

super::outcome::names! {
    /// Why a request failed, in the old system's words and one of our own.
    Refusal {
        /// There is no such account.
        AccountNotFound = "account_not_found",
        /// The account has no refresh token.
        NoRefreshToken = "no_refresh_token",
        /// The account could not be refreshed.
        RefreshFailed = "refresh_failed",
        /// It is not Bluesky's, and there is nobody to hand it to.
        UnsupportedPlatform = "unsupported_platform",
        /// The job makes no sense.
        InvalidRequest = "invalid_request",
    }
}

super::outcome::names! {
    /// What became of a job of the queue of refresh requests.
    Served {
        /// It was done.
        Completed = "completed",
        /// It failed for good.
        Failed = "failed",
        /// It failed, and comes again by its own options.
        Retried = "retried",
        /// It went to the queue for other platforms.
        Moved = "moved",
        /// It went back, through no fault of its own: a stop, or a service that is away.
        PutBack = "put_back",
        /// Whoever had it is gone; it waits again.
        Stalled = "stalled",
        /// Its lock ran out while it was worked on; whoever takes it next does it once more.
        Lost = "lost",
        /// Its name was queued, and there was no job.
        Gone = "gone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6806a8c4302c4281518c95b2";

    #[test]
    fn requests_are_understood_or_whose_they_are() {
        let one = Asked::One(ID.parse().unwrap());
        let id = format!(r#""accountId":"{ID}""#);
        for (name, data, asked) in [
            (ALL, r#"{"scheduled":true}"#.to_owned(), Asked::All),
            (ALL, r#"{"triggered":true}"#.to_owned(), Asked::All),
            (ALL, "null".to_owned(), Asked::All),
            (ONE, format!(r#"{{{id},"platform":"bluesky"}}"#), one),
            (ONE, format!(r#"{{{id},"platform":null}}"#), one),
            (ONE, format!("{{{id}}}"), one),
            (ONE, format!(r#"{{{id},"platform":"tiktok"}}"#), Asked::Others),
            (ONE, format!(r#"{{{id},"platform":"Bluesky"}}"#), Asked::Others),
            (ONE, r#"{"accountId":7,"platform":"tiktok"}"#.to_owned(), Asked::Others),
            ("clean-up", "{}".to_owned(), Asked::Others),
            ("", "7".to_owned(), Asked::Others),
            (ONE, r#"{"accountId":"alice","platform":"bluesky"}"#.to_owned(), Asked::Nobody),
            (ONE, r#"{"accountId":""}"#.to_owned(), Asked::Nobody),
        ] {
            assert_eq!(Asked::read(name, Some(data.as_bytes())), asked, "{name} {data}");
        }
        assert_eq!(Asked::read(ONE, None), Asked::Others);
        assert_eq!(Asked::read(ALL, None), Asked::Others);
    }

    #[test]
    fn what_makes_no_sense_is_said_why() {
        let deep = "[".repeat(60_000);
        for (name, data, why) in [
            (ONE, "", "not JSON"),
            (ALL, "{", "not JSON"),
            ("clean-up", "accountId=1", "not JSON"),
            (ALL, deep.as_str(), "not JSON"),
            (ONE, "[]", "not a JSON object"),
            (ONE, "null", "not a JSON object"),
            (ONE, "{}", "names no accountId"),
            (ONE, r#"{"accountId":null}"#, "accountId is not a text"),
            (ONE, r#"{"accountId":{"$ne":null}}"#, "accountId is not a text"),
            (ONE, r#"{"accountId":"x","platform":7}"#, "platform is not a text"),
        ] {
            let asked = Asked::read(name, Some(data.as_bytes()));
            let Asked::Nonsense(said) = asked else { panic!("{name} {data}: {asked:?}") };
            assert!(said.contains(why), "{name} {data}: {said}");
        }
        assert!(matches!(Asked::read(ONE, Some(&[0xff])), Asked::Nonsense(_)));
    }
}
