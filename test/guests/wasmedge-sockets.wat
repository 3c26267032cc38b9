;; A socket by the functions that WasmEdge added to preview 1.
(module
  (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $open (i32.const 1) (i32.const 2) (i32.const 0)))))
