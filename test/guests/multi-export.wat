;; Two functions to start: `path#other` chooses the second. `number` has a type that cannot
;; be an entry.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\20\00\00\00\07\00\00\00")
  (data (i32.const 8) "\30\00\00\00\06\00\00\00")
  (data (i32.const 32) "_start\n")
  (data (i32.const 48) "other\n")
  (func (export "_start")
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
  (func (export "other")
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16))))
  (func (export "number") (param i32) (result i32) (local.get 0)))
