// What lies between NF4's values: a code is the rank of a number among these. FP4 puts its own in their place.
// FP4: seven thresholds for |x|, and bit 3 of the code is the sign
const MAGNITUDE: bool = false;
// with it, the code of each rank, four bits a rank
const CODES: u32 = 844396048u;
// NF4's thresholds
const T0: f32 = -0.8480963706970215;
const T1: f32 = -0.6106328964233398;
const T2: f32 = -0.4599952697753906;
const T3: f32 = -0.33967941999435425;
const T4: f32 = -0.23460739850997925;
const T5: f32 = -0.13791173696517944;
const T6: f32 = -0.045525018125772476;
const T7: f32 = 0.03979014977812767;
const T8: f32 = 0.120255246758461;
const T9: f32 = 0.2035212516784668;
const T10: f32 = 0.29201376438140869;
const T11: f32 = 0.38931253552436829;
const T12: f32 = 0.50166344642639160;
const T13: f32 = 0.64278692007064819;
const T14: f32 = 0.8614784479141235;
