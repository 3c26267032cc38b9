;; Reads outside of its one page of memory.
(module
  (memory (export "memory") 1)
  (func $read_outside (param $address i32)
    (drop (i32.load (local.get $address))))
  (func $start (export "_start")
    (call $read_outside (i32.const 0x7fff0000))))
