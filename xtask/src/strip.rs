//! Taking DWARF out of the eBPF object. What the loader and bpftool read stays: programs, maps,
//! globals, license, symbols, BTF. Done here because no stripping tool that knows eBPF comes
//! with stable Rust or with Debian 12's binutils.

use anyhow::{Context, Result};
use object::{
    build::elf::{Builder, Section, SectionData},
    elf,
};

/// `object` without its `.debug_*` sections, their relocations and their symbols.
///
/// # Errors
/// It is not a well-formed ELF file.
pub(crate) fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the linker's output is not readable ELF")?;
    let dwarf: Vec<_> = builder
        .sections
        .iter()
        .filter(|section| section.name.as_slice().starts_with(b".debug_"))
        .map(Section::id)
        .collect();
    for section in &mut builder.sections {
        let relocates_dwarf = section.sh_info_section.is_some_and(|id| dwarf.contains(&id));
        if dwarf.contains(&section.id()) || relocates_dwarf {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // LLVM keeps the sections' names among the symbols'; the writer wants a table of their own.
    if !builder.sections.iter().any(|s| matches!(s.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("cannot write the stripped object")?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_refused_with_a_reason() {
        let error = strip(b"not an object").err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("the linker's output is not readable ELF"));
    }
}
