//! Comparing two eBPF objects by what the kernel is given: instructions, relocations, map
//! definitions, globals, license. Not by their bytes: BTF holds line numbers and file names, which
//! may differ where no instruction does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget,
    SectionIndex, SymbolKind, read::elf::ElfFile64,
};

/// Size of an eBPF instruction (a 64-bit load takes two).
const INSTRUCTION: u64 = 8;

/// What the kernel is given of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// Function, qualified by its section → its instructions.
    functions: BTreeMap<String, Code>,
    /// Section (globals, map definitions by section, license) → its bytes.
    data: BTreeMap<String, Vec<u8>>,
    /// Global or map symbol → `section+offset, size`.
    symbols: BTreeMap<String, String>,
    /// Map → its definition, as the loader will read it.
    maps: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Code {
    bytes: Vec<u8>,
    /// Offset in the function → `type target`.
    relocations: BTreeMap<u64, String>,
}

impl Meaning {
    /// Reads it out of an object.
    ///
    /// # Errors
    /// It is not an ELF file, or not one that the loader could load.
    pub(crate) fn read(object: &[u8]) -> Result<Self> {
        let elf =
            ElfFile64::<object::Endianness>::parse(object).context("not a 64-bit ELF file")?;
        let mut meaning = Self { maps: maps(object)?, ..Self::default() };
        for section in elf.sections() {
            let name = section.name().unwrap_or_default().to_owned();
            match section.kind() {
                object::SectionKind::Text => meaning.read_code(&elf, section.index(), &name)?,
                object::SectionKind::Data
                | object::SectionKind::ReadOnlyData
                | object::SectionKind::ReadOnlyString
                | object::SectionKind::UninitializedData
                | object::SectionKind::ReadOnlyDataWithRel => {
                    let bytes = section.data().with_context(|| format!("section {name}"))?;
                    // A section without bytes (.bss) still has a size.
                    let bytes = if bytes.is_empty() {
                        vec![0; section.size() as usize]
                    } else {
                        bytes.to_vec()
                    };
                    meaning.data.insert(name, bytes);
                }
                _ => {}
            }
        }
        for symbol in elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Data) {
            let section =
                symbol.section_index().map_or_else(String::new, |i| section_name(&elf, i));
            let place = format!("{section}+{:#x}, {} bytes", symbol.address(), symbol.size());
            meaning.symbols.insert(symbol.name().unwrap_or_default().to_owned(), place);
        }
        Ok(meaning)
    }

    /// Splits one section of instructions into its functions. What no symbol covers is kept
    /// too, as a function without a name.
    fn read_code(
        &mut self,
        elf: &ElfFile64<'_, object::Endianness>,
        index: SectionIndex,
        name: &str,
    ) -> Result<()> {
        let section = elf.section_by_index(index).with_context(|| format!("section {name}"))?;
        let bytes = section.data().with_context(|| format!("section {name}"))?;
        let relocations: Vec<(u64, String)> = section
            .relocations()
            .map(|(offset, relocation)| {
                let kind = match relocation.flags() {
                    RelocationFlags::Elf { r_type, .. } => format!("type {r_type:?}"),
                    other => format!("{other:?}"),
                };
                (offset, format!("{kind} {}", target_name(elf, relocation.target())))
            })
            .collect();
        let mut ranges: Vec<(u64, u64, String)> = elf
            .symbols()
            .filter(|s| s.section_index() == Some(index) && s.kind() == SymbolKind::Text)
            .filter(|s| s.size() > 0)
            .map(|s| (s.address(), s.address() + s.size(), s.name().unwrap_or_default().to_owned()))
            .collect();
        ranges.sort();
        let mut from = 0;
        let mut gaps = Vec::new();
        for (start, end, _) in &ranges {
            if *start > from {
                gaps.push((from, *start, format!("(no symbol, at {from:#x})")));
            }
            from = from.max(*end);
        }
        if (from as usize) < bytes.len() {
            gaps.push((from, bytes.len() as u64, format!("(no symbol, at {from:#x})")));
        }
        for (start, end, symbol) in ranges.into_iter().chain(gaps) {
            let code = Code {
                bytes: bytes.get(start as usize..end as usize).unwrap_or_default().to_vec(),
                relocations: relocations
                    .iter()
                    .filter(|(offset, _)| (start..end).contains(offset))
                    .map(|(offset, target)| (offset - start, target.clone()))
                    .collect(),
            };
            self.functions.insert(format!("{symbol} in {name}"), code);
        }
        Ok(())
    }
}

/// What differs between two objects, one line each; empty when the kernel would be given the
/// same.
pub(crate) fn differences(committed: &Meaning, built: &Meaning) -> Vec<String> {
    let Meaning { functions, data, symbols, maps } = committed;
    let mut lines = Vec::new();
    compare("function", functions, &built.functions, &mut lines, code_difference);
    compare("map", maps, &built.maps, &mut lines, |a, b| format!("committed {a}; built {b}"));
    compare("section", data, &built.data, &mut lines, |a, b| bytes_difference(a, b));
    compare("symbol", symbols, &built.symbols, &mut lines, |a, b| {
        format!("committed {a}; built {b}")
    });
    lines
}

/// Compares two tables by key; `describe` says how two values differ.
fn compare<T: PartialEq>(
    what: &str,
    committed: &BTreeMap<String, T>,
    built: &BTreeMap<String, T>,
    lines: &mut Vec<String>,
    describe: impl Fn(&T, &T) -> String,
) {
    let names: BTreeSet<&String> = committed.keys().chain(built.keys()).collect();
    for name in names {
        match (committed.get(name), built.get(name)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => lines.push(format!("{what} {name}: {}", describe(a, b))),
            (Some(_), None) => lines.push(format!("{what} {name}: only in the committed object")),
            (None, _) => lines.push(format!("{what} {name}: only in the built object")),
        }
    }
}

/// The first difference of two functions.
fn code_difference(committed: &Code, built: &Code) -> String {
    let length = |code: &Code| code.bytes.len() as u64 / INSTRUCTION;
    let lengths = if length(committed) == length(built) {
        String::new()
    } else {
        format!(" ({} instructions committed, {} built)", length(committed), length(built))
    };
    let chunks = |code: &Code| -> Vec<Vec<u8>> {
        code.bytes.chunks(INSTRUCTION as usize).map(<[u8]>::to_vec).collect()
    };
    let (a, b) = (chunks(committed), chunks(built));
    let first = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i));
    if let Some(index) = first {
        let hex = |chunk: Option<&Vec<u8>>| chunk.map_or("nothing".to_owned(), |c| hex(c));
        return format!(
            "instruction {index}: committed {}; built {}{lengths}",
            hex(a.get(index)),
            hex(b.get(index))
        );
    }
    let mut lines = Vec::new();
    let relocations = |code: &Code| -> BTreeMap<String, String> {
        code.relocations
            .iter()
            .map(|(at, to)| (format!("{}", at / INSTRUCTION), to.clone()))
            .collect()
    };
    compare(
        "relocation of instruction",
        &relocations(committed),
        &relocations(built),
        &mut lines,
        |a, b| format!("committed {a}; built {b}"),
    );
    lines.join(", ")
}

fn bytes_difference(committed: &[u8], built: &[u8]) -> String {
    let at = committed.iter().zip(built).position(|(a, b)| a != b);
    let at = at.unwrap_or_else(|| committed.len().min(built.len()));
    format!("byte {at} of {} committed, {} built", committed.len(), built.len())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The name of what a relocation points at: a symbol, or the section of a section symbol.
fn target_name(elf: &ElfFile64<'_, object::Endianness>, target: RelocationTarget) -> String {
    match target {
        RelocationTarget::Symbol(index) => elf.symbol_by_index(index).map_or_else(
            |_| "a symbol that is not there".to_owned(),
            |symbol| match (symbol.name(), symbol.section_index()) {
                (Ok(name), _) if !name.is_empty() => name.to_owned(),
                (_, Some(section)) => section_name(elf, section),
                _ => "a symbol without a name".to_owned(),
            },
        ),
        RelocationTarget::Section(index) => section_name(elf, index),
        other => format!("{other:?}"),
    }
}

fn section_name(elf: &ElfFile64<'_, object::Endianness>, index: SectionIndex) -> String {
    elf.section_by_index(index)
        .ok()
        .and_then(|section| section.name().ok().map(str::to_owned))
        .unwrap_or_default()
}

/// Every map's definition. Asked of the loader's own parser, since it may stand in a section
/// (`maps`) or in BTF (`.maps`), and globals become maps too.
fn maps(object: &[u8]) -> Result<BTreeMap<String, String>> {
    let object = aya_obj::Object::parse(object).context("the loader cannot parse the object")?;
    let describe = |map: &aya_obj::Map| {
        format!(
            "type {}, key {}, value {}, entries {}, flags {:#x}, extra {:#x}, pinning {:?}",
            map.map_type(),
            map.key_size(),
            map.value_size(),
            map.max_entries(),
            map.map_flags(),
            map.map_extra(),
            map.pinning()
        )
    };
    Ok(object.maps.iter().map(|(name, map)| (name.clone(), describe(map))).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{provenance::OBJECT, sh, strip};

    fn code(bytes: &[u8], relocations: &[(u64, &str)]) -> Code {
        let relocations = relocations.iter().map(|(at, to)| (*at, (*to).to_owned())).collect();
        Code { bytes: bytes.to_vec(), relocations }
    }

    fn committed() -> Result<Vec<u8>> {
        fs::read(sh::root().join(OBJECT)).context(OBJECT)
    }

    /// File ranges of the committed object's instructions, globals, maps and license.
    fn meaningful_ranges(object: &[u8]) -> Result<Vec<(u64, u64)>> {
        let elf = ElfFile64::<object::Endianness>::parse(object)?;
        let ranges = elf
            .sections()
            .filter(|section| {
                let name = section.name().unwrap_or_default();
                section.kind() == object::SectionKind::Text
                    || name == "license"
                    || name == "maps"
                    || name.starts_with(".rodata")
            })
            .filter_map(|section| section.file_range())
            .collect();
        Ok(ranges)
    }

    #[test]
    fn an_object_is_no_different_from_itself() -> Result<()> {
        let object = committed()?;
        let meaning = Meaning::read(&object)?;
        assert!(!meaning.functions.is_empty() && !meaning.maps.is_empty());
        assert!(meaning.data.contains_key("license"));
        assert_eq!(differences(&meaning, &Meaning::read(&object)?), Vec::<String>::new());
        Ok(())
    }

    #[test]
    fn stripping_takes_no_meaning_away() -> Result<()> {
        let object = committed()?;
        let again = strip::strip(&object)?;
        assert_eq!(Meaning::read(&again)?, Meaning::read(&object)?);
        Ok(())
    }

    #[test]
    fn every_changed_byte_that_the_kernel_would_see_is_noticed() -> Result<()> {
        let object = committed()?;
        let meaning = Meaning::read(&object)?;
        for (start, size) in meaningful_ranges(&object)? {
            for at in (start..start + size).step_by(3) {
                let mut changed = object.clone();
                changed[at as usize] ^= 0x10;
                // The loader may also refuse it, which is as good.
                if let Ok(changed) = Meaning::read(&changed) {
                    assert!(!differences(&meaning, &changed).is_empty(), "byte {at:#x}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_first_different_instruction_is_shown() {
        let a = code(&[1; 24], &[]);
        let mut b = code(&[1; 32], &[]);
        b.bytes[9] = 2;
        assert_eq!(
            code_difference(&a, &b),
            "instruction 1: committed 01 01 01 01 01 01 01 01; built 01 02 01 01 01 01 01 01 \
             (3 instructions committed, 4 built)"
        );
    }

    #[test]
    fn same_instructions_that_name_another_map_differ() {
        let a = code(&[0x18; 16], &[(8, "type 1 MUX_SOCKS")]);
        let b = code(&[0x18; 16], &[(8, "type 1 MUX_SLOTS")]);
        assert_eq!(
            code_difference(&a, &b),
            "relocation of instruction 1: committed type 1 MUX_SOCKS; built type 1 MUX_SLOTS"
        );
    }

    #[test]
    fn what_only_one_object_has_is_named() {
        let with = Meaning { data: [(".rodata".to_owned(), vec![1])].into(), ..Meaning::default() };
        let without = Meaning::default();
        let only = |a, b| differences(a, b).join("\n");
        assert_eq!(only(&with, &without), "section .rodata: only in the committed object");
        assert_eq!(only(&without, &with), "section .rodata: only in the built object");
    }
}
