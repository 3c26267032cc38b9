//! Device rules as a program of the kernel's virtual machine (`BPF_PROG_TYPE_CGROUP_DEVICE`).

use rbpf::insn_builder::{Arch, BpfCode, Cond, Instruction, IntoBytes, MemSize, Source};

use super::rules::{Access, MINOR_BITS, Rule, Rules};

// Registers. The kernel passes the address of what it asks about (struct bpf_cgroup_dev_ctx) in
// CONTEXT and takes the answer from ANSWER: 1 for yes.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;
/// The bits of the access that no rule has decided on yet.
const OPEN: u8 = 5;
/// Both numbers, as in [`node`].
const NODE: u8 = 6;

/// How many rules of one kind are behind one jump: its length is a number of 16 bits.
const RUN: usize = 1000;

/// The program, in the kernel's encoding. It looks at the rules from the last to the first. It
/// denies as soon as one denies any bit that is open, and allows when none is.
///
/// Before it takes a program, the kernel follows each way through it. What is known on one way
/// and not on another makes two ways of what comes after, so that a device is told by one
/// comparison, and the kind by one for all rules in a row that have it: half a millisecond of
/// each start was spent on that otherwise.
pub(super) fn assemble(rules: &Rules) -> Vec<u8> {
    let mut code = BpfCode::new();
    let reversed: Vec<&Rule> = rules.rules.iter().rev().collect();
    if !reversed.is_empty() {
        load_question(&mut code);
    }
    let runs = reversed.chunk_by(|one, next| one.devices.kind == next.devices.kind);
    for run in runs.flat_map(|run| run.chunks(RUN)) {
        let length = run
            .iter()
            .map(|rule| condition_length(rule) + verdict_length(rule))
            .sum();
        skip_unless(&mut code, KIND, run[0].devices.kind as i32, length);
        for rule in run {
            append(&mut code, rule);
        }
    }
    answer(&mut code, rules.allow);
    (&code).into_bytes().to_vec()
}

/// The first word has the kind in its lower half and the access in its upper one.
fn load_question(code: &mut BpfCode) {
    for (register, offset) in [(KIND, 0), (MAJOR, 4), (MINOR, 8)] {
        code.load_x(MemSize::Word)
            .set_dst(register)
            .set_src(CONTEXT)
            .set_off(offset)
            .push();
    }
    let code = code
        .mov(Source::Reg, Arch::X32)
        .set_dst(OPEN)
        .set_src(KIND)
        .push();
    let code = code
        .right_shift(Source::Imm, Arch::X32)
        .set_dst(OPEN)
        .set_imm(16)
        .push();
    let code = code
        .bit_and(Source::Imm, Arch::X32)
        .set_dst(OPEN)
        .set_imm(7)
        .push();
    let code = code
        .bit_and(Source::Imm, Arch::X32)
        .set_dst(KIND)
        .set_imm(0xffff)
        .push();
    let code = code
        .mov(Source::Reg, Arch::X32)
        .set_dst(NODE)
        .set_src(MAJOR)
        .push();
    let code = code
        .left_shift(Source::Imm, Arch::X32)
        .set_dst(NODE)
        .set_imm(MINOR_BITS)
        .push();
    code.bit_or(Source::Reg, Arch::X32)
        .set_dst(NODE)
        .set_src(MINOR)
        .push();
}

/// As the kernel has both numbers in one (MKDEV).
fn node(major: i32, minor: i32) -> i32 {
    major << MINOR_BITS | minor
}

/// The register that tells the rule's devices of its kind from others, and their number.
fn condition(rule: &Rule) -> Option<(u8, i32)> {
    match (rule.devices.major, rule.devices.minor) {
        (Some(major), Some(minor)) => Some((NODE, node(major, minor))),
        (Some(major), None) => Some((MAJOR, major)),
        (None, Some(minor)) => Some((MINOR, minor)),
        (None, None) => None,
    }
}

fn condition_length(rule: &Rule) -> i16 {
    if condition(rule).is_some() { 2 } else { 0 }
}

fn verdict_length(rule: &Rule) -> i16 {
    if rule.access == Access::ALL { 2 } else { 4 }
}

fn append(code: &mut BpfCode, rule: &Rule) {
    if let Some((register, number)) = condition(rule) {
        // By way of a register: the number in a comparison has a sign.
        code.mov(Source::Imm, Arch::X32)
            .set_dst(ANSWER)
            .set_imm(number)
            .push();
        code.jump_conditional(Cond::NotEquals, Source::Reg)
            .set_dst(register)
            .set_src(ANSWER)
            .set_off(verdict_length(rule))
            .push();
    }
    let access = i32::from(rule.access.0);
    if rule.access == Access::ALL {
        // Whatever is open is decided.
    } else if rule.allow {
        code.bit_and(Source::Imm, Arch::X32)
            .set_dst(OPEN)
            .set_imm(!access)
            .push();
        skip_unless(code, OPEN, 0, 2);
    } else {
        code.jump_conditional(Cond::BitAnd, Source::Imm)
            .set_dst(OPEN)
            .set_imm(access)
            .set_off(1)
            .push();
        code.jump_unconditional().set_off(2).push();
    }
    answer(code, rule.allow);
}

/// Jumps over so many instructions unless the register has this number.
fn skip_unless(code: &mut BpfCode, register: u8, number: i32, instructions: i16) {
    code.jump_conditional(Cond::NotEquals, Source::Imm)
        .set_dst(register)
        .set_imm(number)
        .set_off(instructions)
        .push();
}

fn answer(code: &mut BpfCode, allow: bool) {
    code.mov(Source::Imm, Arch::X32)
        .set_dst(ANSWER)
        .set_imm(i32::from(allow))
        .push();
    code.exit().push();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::rules::{Devices, Kind};
    use super::*;

    /// What the program answers, by an interpreter that is not the kernel's.
    fn run(program: &[u8], kind: Kind, major: i32, minor: i32, access: Access) -> bool {
        let first = (u32::from(access.0) << 16) | kind as u32;
        let mut question = Vec::new();
        for word in [first, major as u32, minor as u32] {
            question.extend(word.to_ne_bytes());
        }
        let machine = rbpf::EbpfVmRaw::new(Some(program)).unwrap();
        machine.execute_program(&mut question).unwrap() == 1
    }

    /// The same, by what the rules mean.
    fn model(rules: &Rules, kind: Kind, major: i32, minor: i32, access: Access) -> bool {
        [Access::MAKE, Access::READ, Access::WRITE]
            .into_iter()
            .filter(|bit| access.meets(*bit))
            .all(|bit| {
                let last = rules.rules.iter().rfind(|rule| {
                    rule.devices.kind == kind
                        && rule.devices.major.is_none_or(|number| number == major)
                        && rule.devices.minor.is_none_or(|number| number == minor)
                        && rule.access.meets(bit)
                });
                last.map_or(rules.allow, |rule| rule.allow)
            })
    }

    fn kind() -> impl Strategy<Value = Kind> {
        select(vec![Kind::Block, Kind::Char])
    }

    fn access() -> impl Strategy<Value = Access> {
        (1u8..8).prop_map(Access)
    }

    /// Few numbers, so that rules meet each other and the questions.
    fn number() -> impl Strategy<Value = i32> {
        select(vec![0, 1, 3, 4095])
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let number = || proptest::option::of(number());
        (any::<bool>(), kind(), number(), number(), access()).prop_map(
            |(allow, kind, major, minor, access)| Rule {
                allow,
                devices: Devices { kind, major, minor },
                access,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_last_rule_about_an_access_decides(
            allow: bool,
            rules in proptest::collection::vec(rule(), 0..12),
            questions in proptest::collection::vec((kind(), number(), number(), access()), 20),
        ) {
            let rules = Rules { allow, rules };
            let program = assemble(&rules);
            for (kind, major, minor, access) in questions {
                prop_assert_eq!(
                    run(&program, kind, major, minor, access),
                    model(&rules, kind, major, minor, access),
                    "{:?} {}:{} {:?} by {:?}", kind, major, minor, access, rules
                );
            }
        }
    }

    /// What a filter that compares whole accesses lets through: a rule that denies to write does
    /// not name the access of a program that opens to read and write.
    #[test]
    fn what_is_denied_stays_denied_together_with_something_else() {
        let devices = Devices {
            kind: Kind::Block,
            major: Some(8),
            minor: None,
        };
        let rule = |allow, access| Rule {
            allow,
            devices,
            access,
        };
        let rules = Rules {
            allow: false,
            rules: vec![rule(true, Access::ALL), rule(false, Access::WRITE)],
        };
        let program = assemble(&rules);
        let ask = |access| run(&program, Kind::Block, 8, 1, access);
        assert!(ask(Access::READ));
        assert!(!ask(Access::READ.with(Access::WRITE)));
        // And what two rules allow is allowed in one access.
        let rules = Rules {
            allow: false,
            rules: vec![rule(true, Access::READ), rule(true, Access::WRITE)],
        };
        assert!(run(
            &assemble(&rules),
            Kind::Block,
            8,
            1,
            Access::READ.with(Access::WRITE)
        ));
    }
}
