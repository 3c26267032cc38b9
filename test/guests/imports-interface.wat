;; A component that asks for an interface that no host has.
(component
  (import "acme:thing/store@1.2.3" (instance (export "get" (func)))))
