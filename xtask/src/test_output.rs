//! What test runners print: how many tests passed, and what those said that did not.

/// Lines of a failing test's output that are told. The last ones: a panic's message stands at the end.
const LINES_OF_A_TEST: usize = 25;

/// What test runners say of their counts, summed over all their closing lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub ignored: usize,
}

impl Counts {
    /// Reads `Summary [   1.2s] 5 tests run: 4 passed (1 slow), 1 failed, 2 skipped` (nextest) and
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; ...` (libtest).
    pub fn of(text: &str) -> Counts {
        let mut counts = Counts::default();
        for line in text.lines() {
            // nextest shows each test's own output, a libtest run of one test, indented: only the left margin counts.
            let counted = match line.trim_start().strip_prefix("Summary [") {
                Some(rest) => rest.split_once("run:").map(|(_, rest)| rest),
                None => line
                    .strip_prefix("test result: ")
                    .and_then(|l| l.split_once(". "))
                    .map(|(_, l)| l),
            };
            let words: Vec<_> = counted.unwrap_or_default().split([' ', ',', ';', '(']).collect();
            for pair in words.windows(2) {
                let Ok(n) = pair[0].parse::<usize>() else { continue };
                match pair[1] {
                    "passed" => counts.passed += n,
                    "failed" | "timed" => counts.failed += n,
                    "ignored" | "skipped" => counts.ignored += n,
                    _ => {}
                }
            }
        }
        counts
    }
}

/// Each failed test with the end of what it printed: nextest's block of it, or libtest's (`---- NAME stdout ----`).
pub fn failures(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut lines = text.lines().peekable();
    // nextest names its failures a second time below its closing line, without what they said.
    let mut closed = false;
    while let Some(line) = lines.next() {
        closed |= is_closing(line);
        let Some(name) = failed_test(line).filter(|_| !closed || line.starts_with("----")) else {
            continue;
        };
        let mut said = Vec::new();
        while let Some(line) = lines.next_if(|line| !ends_output(line)) {
            if !is_frame(line.trim()) {
                said.push(line.trim());
            }
        }
        // Whom a panic's line names is enough; who called that, the log tells.
        let told = said.iter().position(|&line| line == "stack backtrace:").unwrap_or(said.len());
        let end = &said[told.saturating_sub(LINES_OF_A_TEST)..told];
        all.push(format!("{name}\n  {}", end.join("\n  ")));
    }
    all
}

fn failed_test(line: &str) -> Option<&str> {
    let nextest = || {
        let rest = ["FAIL [", "TIMEOUT [", "SIGABRT [", "SIGSEGV ["]
            .iter()
            .find_map(|word| line.trim_start().strip_prefix(word))?;
        Some(rest.split_once(']')?.1.trim())
    };
    let libtest = || line.strip_prefix("---- ")?.strip_suffix(" stdout ----");
    nextest().or_else(libtest)
}

/// Whether a line of a runner's own follows. nextest indents what a test says by four, its own words by other widths.
fn ends_output(line: &str) -> bool {
    let margin = line.len() - line.trim_start().len();
    let verdict = line.trim_start().split_once(" [").is_some_and(|(word, _)| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '-' || c == ' ')
    });
    (verdict && margin != 4) || is_closing(line) || line == "failures:" || line.starts_with("---- ")
}

fn is_closing(line: &str) -> bool {
    line.trim_start().starts_with("Summary [")
}

/// Lines that a runner prints around what a test said.
fn is_frame(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("stdout ──")
        || line.starts_with("stderr ──")
        || line.starts_with("running ")
        || line.starts_with("test result: ")
        || line == "failures:"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_both_runners_are_read() {
        let text = "
     Summary [   1.234s] 7 tests run: 5 passed (1 slow, 1 leaky), 1 failed, 1 timed out, 2 skipped
test result: FAILED. 3 passed; 4 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.00s
    test result: ok. 1 passed; 0 failed; 0 ignored; is a test's output as nextest shows it
running 9 tests: 9 passed is no closing line";
        assert_eq!(Counts::of(text), Counts { passed: 8, failed: 6, ignored: 3 });
    }

    #[test]
    fn what_a_failed_test_said_is_found_with_nextest() {
        let text = "
        PASS [   0.100s] (1/3) a::b fine
        FAIL [   0.863s] (2/3) node::steady_state the_hit_path
  stdout ───

    running 1 test
    40000 reads: 1 allocations
    test the_hit_path ... FAILED

  stderr ───
    thread 'the_hit_path' panicked at node/tests/steady_state.rs:192:5:
    the node allocates on the hit path
    stack backtrace:
       0: __rustc::rust_begin_unwind

        SLOW [> 60.000s] (   ) a::b slow
        PASS [  61.000s] (3/3) a::b slow
     Summary [  61.000s] 3 tests run: 2 passed, 1 failed, 0 skipped
        FAIL [   0.863s] (2/3) node::steady_state the_hit_path
error: test run failed";
        let found = failures(text);
        assert_eq!(found.len(), 1, "{found:?}");
        let begin = "(2/3) node::steady_state the_hit_path\n  40000 reads: 1 allocations\n";
        assert!(found[0].starts_with(begin), "{}", found[0]);
        assert!(found[0].ends_with("the node allocates on the hit path"), "{}", found[0]);
    }

    #[test]
    fn what_a_failed_test_said_is_found_with_libtest() {
        let text = "
test a ... ok
test b ... FAILED

failures:

---- b stdout ----

thread 'b' panicked at src/lib.rs:1:1:
no

---- c stdout ----
never

failures:
    b
    c

test result: FAILED. 1 passed; 2 failed";
        assert_eq!(
            failures(text),
            ["b\n  thread 'b' panicked at src/lib.rs:1:1:\n  no", "c\n  never"]
        );
    }

    #[test]
    fn of_a_long_output_the_end_is_told() {
        let said: String = (0..100).map(|n| format!("    line {n}\n")).collect();
        let found = failures(&format!("        FAIL [   1.000s] x y\n{said}"));
        assert_eq!(found[0].lines().count(), 1 + LINES_OF_A_TEST);
        assert!(found[0].ends_with("line 99"), "{}", found[0]);
    }
}
