;; Wants a function that no WASI host has.
(module
  (import "env" "frobnicate" (func $frobnicate (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $frobnicate (i32.const 1)))))
