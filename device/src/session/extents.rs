//! Questions about which ranges are zeros.

use diskstream_wire::limits::{EXTENTS_MAX, UNIT_BYTES};
use diskstream_wire::{ExtentEntry, Extents, ExtentsRequest, Nanos, ReadErrorCode};

use super::Session;
use super::event::{Event, Extent, ReadError, RefusedReason};
use super::limits::{EXTENT_QUESTIONS_MAX, RTO_MAX};

/// A question that is outstanding.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    token: u64,
    id: u64,
    offset: u64,
    length: u64,
    tries: u32,
    sent_at: Nanos,
    /// Sent (again) at this time.
    due: Nanos,
}

impl Session {
    /// Asks which parts of a range are zeros; offset and length in whole units. Answered by [`Event::ExtentsDone`].
    ///
    /// # Errors
    /// The question was not taken.
    pub fn extents(
        &mut self,
        token: u64,
        offset: u64,
        length: u64,
        now: Nanos,
    ) -> Result<(), RefusedReason> {
        if self.is_ending() {
            return Err(RefusedReason::Closed);
        }
        let unit = UNIT_BYTES as u64;
        if length == 0 || !offset.is_multiple_of(unit) || !length.is_multiple_of(unit) {
            return Err(RefusedReason::Misaligned);
        }
        if self.questions.len() == EXTENT_QUESTIONS_MAX {
            return Err(RefusedReason::Full);
        }
        let id = self.random.id();
        let question = Question { token, id, offset, length, tries: 0, sent_at: now, due: now };
        self.questions.push(question);
        Ok(())
    }

    pub(super) fn question_of(&self, id: u64) -> Option<usize> {
        self.questions.iter().position(|question| question.id == id)
    }

    /// Takes an answer; false when it is none.
    pub(super) fn question_answered(&mut self, index: usize, m: &Extents, mut tail: &[u8]) -> bool {
        let question = self.questions[index];
        if m.offset != question.offset || usize::from(m.count) > EXTENTS_MAX {
            return false;
        }
        let mut runs = Vec::with_capacity(usize::from(m.count));
        let mut left = question.length;
        while let Some((entry, rest)) = ExtentEntry::decode(tail)
            && runs.len() < usize::from(m.count)
            && left > 0
        {
            if entry.length == 0 || !entry.length.is_multiple_of(UNIT_BYTES as u64) {
                return false;
            }
            let length = entry.length.min(left);
            left -= length;
            runs.push(Extent { length, zero: entry.zero == 1 });
            tail = rest;
        }
        if runs.is_empty() {
            return false;
        }
        self.answer_question(index, Ok(runs));
        true
    }

    pub(super) fn question_failed(&mut self, index: usize, code: ReadErrorCode) {
        match code {
            ReadErrorCode::OutOfRange => self.answer_question(index, Err(ReadError::OutOfRange)),
            // "May hold data" is always a true answer.
            _ => {
                let length = self.questions[index].length;
                self.answer_question(index, Ok(vec![Extent { length, zero: false }]));
            }
        }
    }

    pub(super) fn answer_question(&mut self, index: usize, result: Result<Vec<Extent>, ReadError>) {
        let question = self.questions.swap_remove(index);
        let (token, offset) = (question.token, question.offset);
        self.events.push_back(Event::ExtentsDone { token, offset, result });
    }

    /// All questions are asked anew: the device moved.
    pub(super) fn requeue_questions(&mut self, now: Nanos) {
        for question in &mut self.questions {
            question.due = now;
            question.tries = 0;
        }
    }

    /// Writes the next question that is due.
    pub(super) fn poll_question(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<usize> {
        let serving = self.serving?;
        loop {
            let path = self.paths[serving].as_mut().filter(|path| path.serves())?;
            let index = self.questions.iter().position(|question| question.due <= now)?;
            if !path.at.extents {
                self.question_failed(index, ReadErrorCode::NotNegotiated);
                continue;
            }
            let question = &mut self.questions[index];
            if question.tries > 0 {
                path.unanswered(question.sent_at, now);
            }
            let wait = Nanos(path.answers.timeout().0 << question.tries.min(6)).earlier(RTO_MAX);
            question.tries += 1;
            question.sent_at = now;
            question.due = now + wait;
            out.resize(ExtentsRequest::BYTES, 0);
            ExtentsRequest {
                tag: path.at.tag,
                session: path.at.session,
                request_id: question.id,
                generation: self.generation,
                offset: question.offset,
                length: question.length,
                ..ExtentsRequest::default()
            }
            .encode(out);
            return Some(serving);
        }
    }

    /// When a question is due; while no node serves, adopting one asks them anew.
    pub(super) fn questions_due(&self) -> Nanos {
        let serves =
            self.serving.and_then(|s| self.paths[s].as_ref()).is_some_and(|path| path.serves());
        if !serves {
            return Nanos::NEVER;
        }
        self.questions.iter().map(|question| question.due).min().unwrap_or(Nanos::NEVER)
    }
}
