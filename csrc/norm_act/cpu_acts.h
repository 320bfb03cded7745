// The activations and their derivatives, on vectors. For cpu_simd*.cpp.
//
// fwd(z, p) is act(z); bwd(z, p, da) is da * act'(z). p is a number, or a vector of the channels' slopes. Of those that
// are clamped or of two pieces, act(z) has the sign and the bounds of z, so that bwd may be given act(z) in place of z:
// relu, relu6 and leaky_relu.
#pragma once

#include <type_traits>

#include "common/cpu_math.h"
#include "norm_act/cpu.h"

namespace {

struct OfChannel {};  // the base of activations whose parameter differs between channels
struct Costly {};     // the base of activations that take an exponential, but for gelu's

// The parameter of an activation that is chosen at each vector.
template <class V, class A>
struct Choice {
  fi::Act act;
  A number;
  V slope;
};

// V: a vector; A: its values' type.
template <class V, class A>
struct Acts {
  static V all(A value) { return value - V{}; }
  static V sigmoid(V z) { return A(1) / (A(1) + exp_of(-z)); }
  static V clamp(V z, A low, A high) { return z < low ? all(low) : z > high ? all(high) : z; }

  struct None {
    static V fwd(V z, A) { return z; }
    static V bwd(V, A, V da) { return da; }
  };
  struct Relu {
    static V fwd(V z, A) { return relu(z); }
    static V bwd(V z, A, V da) { return gate(z, da); }
  };
  struct Relu6 {
    static V fwd(V z, A) { return clamp(z, 0, 6); }
    static V bwd(V z, A, V da) { return z <= 0 ? V{} : z >= 6 ? V{} : da; }
  };
  struct LeakyRelu {
    template <class S>
    static V fwd(V z, S slope) {
      return z > 0 ? z : z * slope;
    }
    template <class S>
    static V bwd(V z, S slope, V da) {
      return z > 0 ? da : da * slope;
    }
  };
  struct Prelu : LeakyRelu, OfChannel {
    static V by_slope(V z, V da) { return z > 0 ? V{} : da * z; }  // da * the derivative by the slope
  };
  struct Elu : Costly {
    static V fwd(V z, A alpha) { return z > 0 ? z : alpha * (exp_of(z) - A(1)); }
    static V bwd(V z, A alpha, V da) { return z > 0 ? da : da * (alpha * exp_of(z)); }
  };
  struct Silu : Costly {
    static V fwd(V z, A) { return z / (A(1) + exp_of(-z)); }
    static V bwd(V z, A, V da) {
      const V e = exp_of(-z), s = A(1) / (A(1) + e);
      return da * (s * (A(1) + z * (e * s)));  // e * s is 1 - s with no cancellation, which z would magnify
    }
  };
  struct Hardswish {
    static V fwd(V z, A) { return z * clamp(z + A(3), 0, 6) / A(6); }
    static V bwd(V z, A, V da) { return z <= A(-3) ? V{} : z >= A(3) ? da : da * (z / A(3) + A(0.5)); }
  };
  struct Hardsigmoid {
    static V fwd(V z, A) { return clamp(z + A(3), 0, 6) / A(6); }
    static V bwd(V z, A, V da) { return z <= A(-3) ? V{} : z >= A(3) ? V{} : da / A(6); }
  };
  struct Sigmoid : Costly {
    static V fwd(V z, A) { return sigmoid(z); }
    static V bwd(V z, A, V da) {
      const V s = sigmoid(z);
      return da * s * (A(1) - s);
    }
  };
  struct Tanh : Costly {
    static V fwd(V z, A) { return tanh_of(z); }
    static V bwd(V z, A, V da) {
      const V t = tanh_of(z);
      return da * (A(1) - t * t);
    }
  };
  struct Gelu {
    static V fwd(V z, A) { return gelu_of(z); }
    static V bwd(V z, A, V da) { return da * gelu_slope_of(z); }
  };
  struct GeluTanh {  // 0.5 * (1 + tanh(u)) is sigmoid(2 * u)
    static V twice_u(V z) { return A(1.59576912160573071176) * (z + A(0.044715) * z * z * z); }
    static V fwd(V z, A) { return z * sigmoid(twice_u(z)); }
    static V bwd(V z, A, V da) {
      const V e = exp_of(-twice_u(z)), s = A(1) / (A(1) + e);
      const V slope = A(1.59576912160573071176) * (A(1) + A(3 * 0.044715) * z * z);
      return da * (s + z * s * (e * s) * slope);
    }
  };
  struct Softplus : Costly {  // torch's threshold: linear above 20
    static V fwd(V z, A beta) {
      const V t = z * beta;
      return t > A(20) ? z : ((t > 0 ? t : V{}) + log1p_of(exp_of(-magnitude(t)))) / beta;
    }
    static V bwd(V z, A beta, V da) { return z * beta > A(20) ? da : da * sigmoid(z * beta); }
  };
  struct Mish : Costly {  // w = tanh(softplus(z)) = (e^2 + 2 e) / (e^2 + 2 e + 2), e = exp(z)
    static V weight(V z) {
      const V e = exp_of(z > A(20) ? all(20) : z), n = e * (e + A(2));
      return n / (n + A(2));
    }
    static V fwd(V z, A) { return z * weight(z); }
    static V bwd(V z, A, V da) {
      const V w = weight(z);
      return da * (w + z * (A(1) - w * w) * sigmoid(z));
    }
  };
};

// Calls f with one of the structs above.
template <class D, class F>
void with_act(fi::Act act, F f) {
  using All = Acts<typename Simd<D>::vec, typename Simd<D>::scalar>;
  switch (act) {
    case fi::Act::none:
      return f(typename All::None{});
    case fi::Act::relu:
      return f(typename All::Relu{});
    case fi::Act::relu6:
      return f(typename All::Relu6{});
    case fi::Act::leaky_relu:
      return f(typename All::LeakyRelu{});
    case fi::Act::elu:
      return f(typename All::Elu{});
    case fi::Act::silu:
      return f(typename All::Silu{});
    case fi::Act::hardswish:
      return f(typename All::Hardswish{});
    case fi::Act::hardsigmoid:
      return f(typename All::Hardsigmoid{});
    case fi::Act::sigmoid:
      return f(typename All::Sigmoid{});
    case fi::Act::tanh:
      return f(typename All::Tanh{});
    case fi::Act::gelu:
      return f(typename All::Gelu{});
    case fi::Act::gelu_tanh:
      return f(typename All::GeluTanh{});
    case fi::Act::softplus:
      return f(typename All::Softplus{});
    case fi::Act::mish:
      return f(typename All::Mish{});
    case fi::Act::prelu:
      return f(typename All::Prelu{});
  }
}

// The activation that its parameter names, chosen at each vector: one kernel serves all.
template <class D>
struct AnyAct : OfChannel, Costly {
  using V = typename Simd<D>::vec;
  using Parameter = Choice<V, typename Simd<D>::scalar>;

  template <class ACT>
  static auto own(const Parameter& p) {
    if constexpr (std::is_base_of_v<OfChannel, ACT>) {
      return p.slope;
    } else {
      return p.number;
    }
  }
  static V fwd(V z, const Parameter& p) {
    V a;
    with_act<D>(p.act, [&](auto act) { a = act.fwd(z, own<decltype(act)>(p)); });
    return a;
  }
  static V bwd(V z, const Parameter& p, V da) {
    V dz;
    with_act<D>(p.act, [&](auto act) { dz = act.bwd(z, own<decltype(act)>(p), da); });
    return dz;
  }
  static V by_slope(V z, V da) { return z > 0 ? V{} : da * z; }
};

}  // namespace
