//! Every guest's build script: hands the linker script to the linker.

fn main() {
    println!("cargo::rerun-if-changed=../rt/image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for argument in
            [&format!("-T{here}/../rt/image.ld") as &str, "-pie", "--no-dynamic-linker", "-znotext"]
        {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
