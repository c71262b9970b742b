//! Hands the linker script to the linker, for the kernel's own target only, and
//! hyp's binary to the kernel.

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    hyp();
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for argument in
            [&format!("-T{here}/link.ld") as &str, "-pie", "--no-dynamic-linker", "-znotext"]
        {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}

/// The hypervisor of nVHE, which `./x build` has made before: HYPHA_HYP names the
/// file. Without it the kernel has none, and says so where it is asked for.
fn hyp() {
    println!("cargo::rerun-if-env-changed=HYPHA_HYP");
    let file = match std::env::var("HYPHA_HYP") {
        Ok(file) if !file.is_empty() => {
            println!("cargo::rerun-if-changed={file}");
            file
        }
        _ => {
            let none = format!("{}/no-hyp", std::env::var("OUT_DIR").unwrap_or_default());
            if let Err(error) = std::fs::write(&none, []) {
                println!("cargo::error=cannot write {none}: {error}");
            }
            none
        }
    };
    println!("cargo::rustc-env=HYPHA_HYP_FILE={file}");
}
