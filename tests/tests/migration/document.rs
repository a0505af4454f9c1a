//! What MIGRATION.md says: blocks of commands and rows of tables.

use anyhow::{Context as _, Result};
use moorgate_tests::program::root;

/// The text of the section below a heading, up to the next heading of its level or a higher one.
pub(crate) fn section(heading: &str) -> Result<String> {
    let text = std::fs::read_to_string(root().join("MIGRATION.md"))?;
    let level = heading.chars().take_while(|letter| *letter == '#').count();
    let (_, after) = text.split_once(&format!("\n{heading}\n")).with_context(|| heading.to_owned())?;
    let mut code = false;
    let mut section = String::new();
    for line in after.lines() {
        code ^= line.trim_start().starts_with("```");
        let depth = line.chars().take_while(|letter| *letter == '#').count();
        if !code && (1..=level).contains(&depth) {
            break;
        }
        section += line;
        section.push('\n');
    }
    Ok(section)
}

/// The blocks of a text that are marked so, in their order.
fn marked(text: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(info)) => open = Some((info == mark, String::new())),
            (None, None) => {}
            (Some(_), Some(_)) => {
                if let Some((true, block)) = open.take() {
                    found.push(block);
                }
            }
            (Some((_, block)), None) => {
                *block += line.trim_start();
                block.push('\n');
            }
        }
    }
    found
}

/// The commands of a section: so many blocks.
pub(crate) fn commands<const COUNT: usize>(heading: &str) -> Result<[String; COUNT]> {
    let found = marked(&section(heading)?, "sh");
    let count = found.len();
    found.try_into().ok().with_context(|| format!("{heading} has {count} blocks of commands, not {COUNT}"))
}

/// A command that needs a program which the suite does not have.
pub(crate) fn elsewhere(heading: &str) -> Result<String> {
    let [one] = marked(&section(heading)?, "sh elsewhere").try_into().ok().context("one command")?;
    Ok(one)
}

/// A command that goes on while the next ones are typed.
pub(crate) fn background(heading: &str) -> Result<String> {
    let [one] = marked(&section(heading)?, "sh background").try_into().ok().context("one command")?;
    Ok(one)
}

/// All headings that have commands, each with how many blocks.
pub(crate) fn headings() -> Result<Vec<(String, usize)>> {
    let text = std::fs::read_to_string(root().join("MIGRATION.md"))?;
    let mut found: Vec<(String, String)> = Vec::new();
    let mut code = false;
    for line in text.lines() {
        code ^= line.trim_start().starts_with("```");
        if !code && line.starts_with("##") {
            found.push((line.to_owned(), String::new()));
        } else if let Some((_, body)) = found.last_mut() {
            *body += line;
            body.push('\n');
        }
    }
    let blocks = |body: &str| ["sh", "sh background"].iter().map(|mark| marked(body, mark).len()).sum();
    let counted = found.into_iter().map(|(heading, body)| (heading, blocks(&body)));
    Ok(counted.filter(|(_, count)| *count > 0).collect())
}
