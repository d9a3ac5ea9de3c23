//! What to do when a compare-and-set found that the document had changed: contract.md's table.

use super::account::StoredToken;
use super::session::RefreshJwt;

/// What a missed write of a pair comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The document holds our pair: an earlier write of ours had arrived.
    Stored,
    /// Write again, this time against what was just read.
    WriteAgain,
    /// The document holds an older copy of the very link that we hold: ours replaces it, and the
    /// attempt counts as superseded all the same.
    ReplaceCopy,
    /// The document's token is newer, or the person disconnected: ours is dropped.
    Superseded,
}

/// Settles a pair (`answered`, bought with `used`) against what the document holds now; `None`
/// when the document is gone.
///
/// An answer's own `iat` proves nothing against another link: a token that is asked again within
/// its grace yields a fresh-looking copy of a link that may long be spent (bluesky.md). So links
/// are told apart by `jti`, and their order by the token that was *used*.
pub fn settle(
    used: &RefreshJwt,
    answered: &RefreshJwt,
    document: Option<&StoredToken>,
) -> Settlement {
    let stored = match document {
        Some(StoredToken::Token(stored)) => stored,
        None | Some(StoredToken::Null | StoredToken::Unreadable) => return Settlement::Superseded,
    };
    if stored.is(answered) {
        Settlement::Stored
    } else if stored.is(used) || stored.jti() == used.jti() && stored.jti() != answered.jti() {
        // A later copy of the link that was used is as spent as the link itself.
        Settlement::WriteAgain
    } else if stored.jti() == answered.jti() {
        if answered.issued_at() > stored.issued_at() {
            Settlement::ReplaceCopy
        } else {
            Settlement::Superseded
        }
    } else if stored.issued_at() >= used.issued_at() {
        Settlement::Superseded
    } else {
        Settlement::WriteAgain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::tests::token;

    fn jwt(jti: &str, iat: i64, salt: &str) -> RefreshJwt {
        let claims = serde_json::json!({"sub": "did:plc:a", "jti": jti, "iat": iat, "exp": 9_999, "s": salt});
        RefreshJwt::parse(&token(&claims)).unwrap()
    }

    #[test]
    fn every_row_of_the_table() {
        let used = jwt("u", 100, "");
        let answered = jwt("n", 200, "");
        let stored = |jti, iat, salt| Some(StoredToken::Token(jwt(jti, iat, salt)));
        let rows = [
            ("is N", stored("n", 200, ""), Settlement::Stored),
            ("is U", stored("u", 100, ""), Settlement::WriteAgain),
            ("a later copy of U", stored("u", 150, "x"), Settlement::WriteAgain),
            ("an earlier copy of U", stored("u", 50, "x"), Settlement::WriteAgain),
            ("N's link, later", stored("n", 201, "x"), Settlement::Superseded),
            ("N's link, as late", stored("n", 200, "x"), Settlement::Superseded),
            ("N's link, earlier", stored("n", 199, "x"), Settlement::ReplaceCopy),
            (
                "another link, newer than U, older-looking than N",
                stored("c", 150, ""),
                Settlement::Superseded,
            ),
            ("another link, as old as U", stored("c", 100, ""), Settlement::Superseded),
            ("another link, older than U", stored("o", 99, ""), Settlement::WriteAgain),
            ("null", Some(StoredToken::Null), Settlement::Superseded),
            ("not a JWT", Some(StoredToken::Unreadable), Settlement::Superseded),
            ("gone", None, Settlement::Superseded),
        ];
        for (name, document, expected) in rows {
            assert_eq!(settle(&used, &answered, document.as_ref()), expected, "{name}");
        }
        let same = jwt("u", 200, "");
        let kept = Some(StoredToken::Token(jwt("u", 300, "x")));
        let settled = settle(&used, &same, kept.as_ref());
        assert_eq!(settled, Settlement::Superseded, "a server that never rotates: the later stays");
    }
}
