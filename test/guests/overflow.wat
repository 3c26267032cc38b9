;; Calls itself for ever, each time with something left to do, until its stack is full.
(module
  (memory (export "memory") 1)
  (func $endless_recursion (param $depth i32) (result i32)
    (i32.add
      (call $endless_recursion (i32.add (local.get $depth) (i32.const 1)))
      (local.get $depth)))
  (func $start (export "_start") (drop (call $endless_recursion (i32.const 0)))))
