//! What `ps` and `docker top` show for a guest: its own command line, not the shim's.
// The kernel shows the memory that the command line was started in; there is no call to
// replace it without CAP_SYS_RESOURCE (prctl(2), PR_SET_MM).
#![allow(unsafe_code)]

use std::sync::OnceLock;

/// First byte and length of the process's arguments and environment.
static AREA: OnceLock<(usize, usize)> = OnceLock::new();

/// Finds the area of the command line, while `/proc` is there. Once, when the shim starts;
/// the environment must not be used any more.
pub fn find_process_title() {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return;
    };
    if let Some(area) = area(&stat) {
        let _ = AREA.set(area);
    }
}

/// From arg_start to env_end, which the kernel lays out one after the other. Fields 48 to 51
/// of proc_pid_stat(5); the text starts with the third.
fn area(stat: &str) -> Option<(usize, usize)> {
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(48 - 3);
    let mut fields = fields.map_while(|field| field.parse::<usize>().ok());
    let (arg_start, arg_end) = (fields.next()?, fields.next()?);
    let (env_start, env_end) = (fields.next()?, fields.next()?);
    let in_order =
        arg_start != 0 && arg_start < arg_end && arg_end == env_start && env_start <= env_end;
    in_order.then(|| (arg_start, env_end - arg_start))
}

/// Shows `args` as this process's command line, cut to the room there is.
pub(crate) fn set(args: &[String]) {
    let Some(&(start, length)) = AREA.get() else {
        return;
    };
    let mut title = vec![0; length];
    let text = args.join("\0");
    let shown = text.len().min(length - 1);
    title[..shown].copy_from_slice(&text.as_bytes()[..shown]);
    // SAFETY: the kernel reported this range as the strings of arguments and environment of
    // this process, which are writable; the environment has been cleared and Rust has copied
    // the arguments, so nobody else refers to them.
    unsafe { std::ptr::copy_nonoverlapping(title.as_ptr(), start as *mut u8, length) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_read_from_the_kernels_own_table() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (start, length) = area(&stat).unwrap();
        assert!(start > 0 && length > 10);
        assert_eq!(area("1 (a) b) S 0"), None);
    }
}
