;; Reaches `unreachable` three named calls deep, so that a backtrace has something to show.
(module
  (memory (export "memory") 1)
  (func $inner_that_traps unreachable)
  (func $middle_caller (call $inner_that_traps))
  (func $start (export "_start") (call $middle_caller)))
