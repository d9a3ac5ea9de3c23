//! The `update` command: many compare-and-sets in one round trip, each with a filter of its own.

use mongodb::ClientSession;
use mongodb::bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::connect::MAJORITY_WAIT;
use super::error::{self, StoreError};
use super::{Store, field};

/// What an `update` command answers.
pub(super) struct Updated {
    /// How many of the statements matched, all together: which is not said.
    pub(super) matched: u64,
    /// Those that failed.
    pub(super) failed: Vec<Failed>,
}

/// A statement that failed.
pub(super) struct Failed {
    /// Its place among the statements.
    pub(super) at: usize,
    /// MongoDB's error code.
    pub(super) code: i32,
    /// The error that it makes.
    pub(super) error: StoreError,
}

/// One statement: where `filter` matches, the fields of `set` are set.
pub(super) fn statement(filter: RawDocumentBuf, set: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "q": filter, "u": { "$set": set } }
}

impl Store {
    /// Carries the statements out, in no order, and returns when a majority has what they changed.
    ///
    /// # Errors
    /// After one, any of them may have been carried out.
    pub(super) async fn update_all<'a>(
        &self,
        statements: impl IntoIterator<Item = &'a RawDocument>,
        session: Option<&mut ClientSession>,
    ) -> Result<Updated, StoreError> {
        let mut updates = RawArrayBuf::new();
        for statement in statements {
            updates.push(statement);
        }
        let wait = i64::try_from(MAJORITY_WAIT.as_millis()).unwrap_or(i64::MAX);
        let command = rawdoc! {
            "update": self.collection(),
            "updates": updates,
            "ordered": false,
            "writeConcern": { "w": "majority", "wtimeout": wait },
        };
        let mut run = self.db.run_raw_command(command);
        if let Some(session) = session {
            run = run.session(session);
        }
        let answer = run.await?;
        let not_understood =
            |_bson| StoreError::Unanswered("the answer was not understood".to_owned());
        Updated::read(&RawDocumentBuf::try_from(&answer).map_err(not_understood)?)
    }
}

impl Updated {
    fn read(raw: &RawDocument) -> Result<Self, StoreError> {
        if let Some(error) = field::document(raw, "writeConcernError") {
            let code = field::count(error, "code").unwrap_or_default();
            return Err(StoreError::Unanswered(format!("write concern error {code}")));
        }
        let mut failed = Vec::new();
        if let field::Field::Value(RawBsonRef::Array(errors)) = field::get(raw, "writeErrors") {
            for error in errors.into_iter().flatten().filter_map(RawBsonRef::as_document) {
                let number = |key| field::count(error, key).unwrap_or_default();
                let code = i32::try_from(number("code")).unwrap_or_default();
                let text = field::text(error, "errmsg").unwrap_or_default();
                let at = usize::try_from(number("index")).unwrap_or(usize::MAX);
                let error = error::failed(code, "", text);
                // A primary that steps down says so of one statement, or of none.
                if error.is_transient() {
                    return Err(error);
                }
                failed.push(Failed { at, code, error });
            }
        }
        Ok(Self { matched: field::count(raw, "n").unwrap_or_default(), failed })
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let error = rawdoc! { "index": 3, "code": 121, "errmsg": "Document failed validation" };
        let answer = rawdoc! { "ok": 1.0, "n": 7, "writeErrors": [error] };
        let updated = Updated::read(&answer).unwrap();
        assert_eq!(updated.matched, 7);
        let [failed] = updated.failed.as_slice() else { panic!("one failed") };
        assert_eq!((failed.at, failed.code), (3, 121));
        assert!(matches!(&failed.error, StoreError::Refused(why) if why.contains("validation")));
    }

    #[test]
    fn what_may_have_happened_all_the_same_is_an_error_of_the_whole() {
        let stepped_down = rawdoc! { "index": 0, "code": 11_602, "errmsg": "stepping down" };
        let late = rawdoc! { "code": 64, "errmsg": "waiting for replication timed out" };
        for answer in [
            rawdoc! { "ok": 1.0, "n": 7, "writeErrors": [stepped_down] },
            rawdoc! { "ok": 1.0, "n": 8, "writeConcernError": late },
        ] {
            let error = Updated::read(&answer).err().unwrap();
            assert!(error.may_have_written(), "{error}");
        }
    }
}
