;; A command of WASI 0.3 that succeeds at once. Its type is asynchronous, its code is not.
(component
  (core module $code
    (func (export "run") (result i32) i32.const 0))
  (core instance $code (instantiate $code))
  (type $run (func async (result (result))))
  (func $run (type $run) (canon lift (core func $code "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $command)))
