//! mux.
fn main() {
    match mux::kernel::Kernel::load(mux::kernel::LoadOptions { flows: 1024, log: Default::default() }) {
        Ok(k) => println!("{k:?} {:?}", k.stats()),
        Err(e) => println!("ERR {e}"),
    }
}
